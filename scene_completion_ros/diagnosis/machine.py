"""The machine: shared memory, GPU, CPU and compiled kernels."""

import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from scene_completion_ros.diagnosis.child import Finding, ProbeError, Status, run_probe

SHARED_MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 4 * 32 * 1024 * 1024  # camera, node, bag player and viewer, with a segment of 32 MiB each
CPU_ENGINE = "the default engine runs on the CPU"
NOTHING_MISSING = f"{CPU_ENGINE}, nothing is missing"
FLAVOURS: tuple[Literal["tensorrt", "tensorrt_rtx"], ...] = ("tensorrt", "tensorrt_rtx")
GPU_PACKAGES = (*FLAVOURS, "pycuda")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY")
CUDA_LIMIT_S, IMPORT_LIMIT_S, COMPILE_LIMIT_S = 30.0, 60.0, 120.0


def check_shared_memory() -> Finding:
    """Is /dev/shm there, writable, and is there room?"""
    if sys.platform != "linux":
        return Finding(Status.NOT_APPLICABLE, f"{sys.platform} has no {SHARED_MEMORY}")
    if not SHARED_MEMORY.is_dir():
        return Finding(Status.FAILED, f"{SHARED_MEMORY} is missing", "sudo mount -t tmpfs tmpfs /dev/shm")
    try:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY) as file:
            file.write(b"scene_completion")
    except OSError as error:
        cure = "sudo mount -o remount,rw,mode=1777 /dev/shm"
        return Finding(Status.FAILED, f"cannot be written: {error.strerror}", cure)
    state = os.statvfs(SHARED_MEMORY)
    free = state.f_bavail * state.f_frsize
    files = [path for path in SHARED_MEMORY.glob("fastdds_*") if path.is_file()]
    details = {"free_bytes": free, "fastdds_files": len(files)}
    found = f"writable, {free / 2**20:.0f} MiB free, {len(files)} files of Fast DDS"
    if free < LEAST_FREE_BYTES:
        cure = (
            "In Docker: docker run --shm-size=512m (or --ipc=host); otherwise end all ROS processes and remove what "
            "they left: rm /dev/shm/fastdds_*"
        )
        return Finding(Status.WARNING, f"{found}; {LEAST_FREE_BYTES / 2**20:.0f} MiB should be", cure, details)
    return Finding(Status.OK, found, details=details)


def check_gpu() -> Finding:
    """Does the driver see a GPU? None is needed."""
    has_driver = Path("/proc/driver/nvidia/version").is_file()
    try:
        answer = run_probe("cuda", limit_s=CUDA_LIMIT_S)
    except ProbeError as error:
        answer = {"devices": None, "error": error.what}
    details = {"driver": has_driver, **answer}
    if answer["devices"]:
        found = f"{', '.join(answer['devices'])}; engine auto takes it with TensorRT, pycuda and a bundle for GPUs"
        return Finding(Status.OK, found, details=details)
    if has_driver or answer["error"]:
        found = f"an NVIDIA driver, but CUDA sees no device (error {answer['error']}); {NOTHING_MISSING}"
        cure = "Only if you want it: nvidia-smi must list the GPU; in Docker, docker run --gpus all"
        return Finding(Status.WARNING, found, cure, details)
    return Finding(Status.NOT_APPLICABLE, f"no NVIDIA driver: {NOTHING_MISSING}", details=details)


def check_gpu_packages() -> Finding:
    """Are TensorRT (or TensorRT-RTX) and pycuda there, importable, and of the right version? They are not needed."""
    installed: dict[str, str] = {}
    for name in GPU_PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    details: dict[str, Any] = {name: installed.get(name) for name in GPU_PACKAGES}
    if not installed:
        found = f"none of {', '.join(GPU_PACKAGES)} is installed: {NOTHING_MISSING}"
        return Finding(Status.NOT_APPLICABLE, found, details=details)
    for name in installed:
        try:
            run_probe("module", name, limit_s=IMPORT_LIMIT_S)
        except ProbeError as error:
            cure = f"Only if you want it: pip install --force-reinstall {name}"
            return Finding(Status.WARNING, f"{name} cannot be imported: {error.what}; {NOTHING_MISSING}", cure, details)
    summary = ", ".join(f"{name} {number}" for name, number in installed.items())
    try:
        from scene_completion_ros.inference.gpu.requirements import INSTALL, PYCUDA, version_problem
    except ImportError as error:  # what is broken is another check's to say
        return Finding(Status.OK, f"{summary}; versions were not looked at, for {error}", details=details)
    for flavour in FLAVOURS:
        problem = version_problem(flavour, installed[flavour]) if flavour in installed else ""
        if problem:
            cure = f"Only if you want it: {INSTALL[flavour]}"
            return Finding(Status.WARNING, f"{flavour} {problem}; {NOTHING_MISSING}", cure, details)
    if "pycuda" not in installed:
        found = f"{summary}; engine tensorrt needs pycuda, too ({PYCUDA}); {CPU_ENGINE}"
        return Finding(Status.OK, found, details=details)
    return Finding(Status.OK, summary, details=details)


def check_cpu() -> Finding:
    """How many cores may this process use, and how many threads may be started?"""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    load = os.getloadavg()[0]
    variables = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    details = {"machine": platform.machine(), "cores": usable, "load": load, "variables": variables}
    summary = "".join(f", {name}={value}" for name, value in variables.items())
    found = f"{platform.machine()}, {usable} of {os.cpu_count()} cores may be used, load {load:.1f}{summary}"
    if load > usable:
        cure = "End other programs that compute, or the node gets a part of the CPU only (see them with: top)"
        return Finding(Status.WARNING, f"{found}: more programs compute than there are cores", cure, details)
    return Finding(Status.OK, found, details=details)


def check_kernels() -> Finding:
    """Does numba compile, and can it keep what it compiled?"""
    details = run_probe("kernels", limit_s=COMPILE_LIMIT_S)
    found = f"numba {details['version']}, {details['threads']} threads ({details['threading_layer']})"
    if not details["right"]:
        cure = "pip install --force-reinstall numba llvmlite"
        return Finding(Status.FAILED, f"{found}: a compiled kernel computes wrongly", cure, details)
    wanted, cache = os.environ.get("NUMBA_CACHE_DIR"), details["cache"]
    cure = "export NUMBA_CACHE_DIR=$HOME/.cache/numba, or another folder that can be written"
    if cache is None:
        return Finding(Status.WARNING, f"{found}; no cache folder: every start compiles for seconds", cure, details)
    if wanted and Path(wanted).resolve() not in Path(cache).resolve().parents:
        found = f"{found}; NUMBA_CACHE_DIR={wanted} cannot be written, the cache is {cache}"
        return Finding(Status.WARNING, found, cure, details)
    return Finding(Status.OK, f"{found}, cache {cache}", details=details)
