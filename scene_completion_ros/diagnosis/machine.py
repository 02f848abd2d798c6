"""The machine: shared memory, GPU, CPU and compiled kernels."""

import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scene_completion_ros.diagnosis.child import Finding, ProbeError, failed, not_applicable, ok, run_probe, warning

SHARED_MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 4 * 32 * 1024 * 1024  # camera, node, bag player and viewer, with a segment of 32 MiB each
NOTHING_MISSING = "the default engine runs on the CPU, nothing is missing"
GPU_PACKAGES = ("tensorrt", "tensorrt_rtx", "pycuda")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY")
CUDA_LIMIT_S, COMPILE_LIMIT_S = 30.0, 120.0


def check_shared_memory(details: dict[str, Any]) -> Finding:
    """Is /dev/shm there, writable, and is there room?"""
    if sys.platform != "linux":
        return not_applicable(f"{sys.platform} has no {SHARED_MEMORY}")
    if not SHARED_MEMORY.is_dir():
        return failed(f"{SHARED_MEMORY} is missing", "sudo mount -t tmpfs tmpfs /dev/shm")
    try:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY) as file:
            file.write(b"scene_completion")
    except OSError as error:
        return failed(f"cannot be written: {error.strerror}", "sudo mount -o remount,rw,mode=1777 /dev/shm")
    state = os.statvfs(SHARED_MEMORY)
    free, files = state.f_bavail * state.f_frsize, len(list(SHARED_MEMORY.glob("fastdds_*")))
    details.update(free_bytes=free, fastdds_files=files)
    found = f"writable, {free / 2**20:.0f} MiB free, {files} files of Fast DDS"
    if free < LEAST_FREE_BYTES:
        cure = (
            "In Docker: docker run --shm-size=512m (or --ipc=host); otherwise end all ROS processes and remove what "
            "they left: rm /dev/shm/fastdds_*"
        )
        return warning(f"{found}; {LEAST_FREE_BYTES / 2**20:.0f} MiB should be", cure)
    return ok(found)


def check_gpu(details: dict[str, Any]) -> Finding:
    """Does the driver see a GPU? None is needed."""
    details["driver"] = Path("/proc/driver/nvidia/version").is_file()
    try:
        details |= run_probe("cuda", limit_s=CUDA_LIMIT_S)
    except ProbeError as error:
        details |= {"devices": None, "error": error.what}
    if details["devices"]:
        return ok(f"{', '.join(details['devices'])}; engine auto takes it with TensorRT, pycuda and a bundle for GPUs")
    if details["driver"] or details["error"]:
        found = f"an NVIDIA driver, but CUDA sees no device (error {details['error']}); {NOTHING_MISSING}"
        return warning(found, "Only if you want it: nvidia-smi must list the GPU; in Docker, docker run --gpus all")
    return not_applicable(f"no NVIDIA driver: {NOTHING_MISSING}")


def check_gpu_packages(details: dict[str, Any]) -> Finding:
    """Are TensorRT (or TensorRT-RTX) and pycuda there, importable, and of the right version? They are not needed."""
    for name in GPU_PACKAGES:
        try:
            details[name] = version(name)
        except PackageNotFoundError:
            details[name] = None
    installed = ", ".join(f"{name} {number}" for name, number in details.items() if number)
    if not installed:
        return not_applicable(f"none of {', '.join(GPU_PACKAGES)} is installed: {NOTHING_MISSING}")
    try:
        missing = run_probe("gpu_packages")["missing"]
    except ProbeError as error:
        return warning(f"{installed} cannot be looked at: {error.what}; {NOTHING_MISSING}", "See what failed above")
    for part in missing:
        return warning(f"{part['part']} {part['what']}; {NOTHING_MISSING}", f"Only if you want it: {part['cure']}")
    return ok(installed)


def check_cpu(details: dict[str, Any]) -> Finding:
    """How many cores may this process use, and how many threads may be started?"""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    load = os.getloadavg()[0]
    variables = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    details.update(machine=platform.machine(), cores=usable, load=load, variables=variables)
    summary = "".join(f", {name}={value}" for name, value in variables.items())
    found = f"{platform.machine()}, {usable} of {os.cpu_count()} cores may be used, load {load:.1f}{summary}"
    if load > usable:
        cure = "End other programs that compute, or the node gets a part of the CPU only (see them with: top)"
        return warning(f"{found}: more programs compute than there are cores", cure)
    return ok(found)


def check_kernels(details: dict[str, Any]) -> Finding:
    """Does numba compile, and can it keep what it compiled?"""
    details |= run_probe("kernels", limit_s=COMPILE_LIMIT_S)
    found = f"numba {details['version']}, {details['threads']} threads ({details['threading_layer']})"
    if not details["right"]:
        return failed(f"{found}: a compiled kernel computes wrongly", "pip install --force-reinstall numba llvmlite")
    wanted, cache = os.environ.get("NUMBA_CACHE_DIR"), details["cache"]
    cure = "export NUMBA_CACHE_DIR=$HOME/.cache/numba, or another folder that can be written"
    if cache is None:
        return warning(f"{found}; no cache folder: every start compiles for seconds", cure)
    if wanted and Path(wanted).resolve() not in Path(cache).resolve().parents:
        return warning(f"{found}; NUMBA_CACHE_DIR={wanted} cannot be written, the cache is {cache}", cure)
    return ok(f"{found}, cache {cache}")
