"""The machine: shared memory, GPU, CPU and compiled kernels."""

import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scene_completion_ros.diagnosis.check import Finding, failed, not_applicable, ok, warning

SHARED_MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 4 * 32 * 1024 * 1024  # camera, node, bag player and viewer, with a segment of 32 MiB each
NOTHING_MISSING = "the default engine runs on the CPU, nothing is missing"
GPU_PACKAGES = ("tensorrt", "tensorrt_rtx", "pycuda")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY")
CUDA_LIMIT_S, COMPILE_LIMIT_S = 30.0, 120.0
REINSTALL_NUMBA = "pip install --force-reinstall numba llvmlite"


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
    from scene_completion_ros.inference.gpu.device import cuda_devices

    driver, (names, error) = Path("/proc/driver/nvidia/version").is_file(), cuda_devices()
    details.update(driver=driver, devices=names, error=error)
    if names:
        return ok(f"{', '.join(names)}; engine auto takes it with TensorRT, pycuda and a bundle for GPUs")
    if driver or error:
        found = f"an NVIDIA driver, but CUDA sees no device (error {error}); {NOTHING_MISSING}"
        return warning(found, "Only if you want it: nvidia-smi must list the GPU; in Docker, docker run --gpus all")
    return not_applicable(f"no NVIDIA driver: {NOTHING_MISSING}")


def check_gpu_packages(details: dict[str, Any]) -> Finding:
    """Are TensorRT (or TensorRT-RTX) and pycuda there, importable, and of the right version? They are not needed."""
    from scene_completion_ros.inference.gpu.device import installed_flavour, missing_parts

    for name in GPU_PACKAGES:
        try:
            details[name] = version(name)
        except PackageNotFoundError:
            details[name] = None
    installed = ", ".join(f"{name} {number}" for name, number in details.items() if number)
    if not installed:
        return not_applicable(f"none of {', '.join(GPU_PACKAGES)} is installed: {NOTHING_MISSING}")
    flavour = installed_flavour()
    for part, what, cure in missing_parts(flavour):
        if part in (flavour, "pycuda"):
            return warning(f"{part} {what}; {NOTHING_MISSING}", f"Only if you want it: {cure}")
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
    """Does numba compile, and can it keep what it compiled? A parallel kernel is compiled as those of the inference."""
    import numba
    import numpy as np

    from scene_completion_ros.jit import kernel, kernel_threads

    def twice(values):  # type: ignore[no-untyped-def] # numba finds the types: float32 [N]
        result = np.empty_like(values)
        for i in numba.prange(len(values)):
            result[i] = np.float32(2.0) * values[i]
        return result

    doubled: Any = kernel()(twice)
    values = np.arange(1000, dtype=np.float32)
    with kernel_threads(None):
        right = np.array_equal(doubled(values), 2.0 * values)
        threads, layer, cache = numba.get_num_threads(), numba.threading_layer(), doubled.stats.cache_path
    details.update(version=numba.__version__, threads=threads, threading_layer=layer, cache=cache)
    found = f"numba {numba.__version__}, {threads} threads ({layer})"
    if not right:
        return failed(f"{found}: a compiled kernel computes wrongly", REINSTALL_NUMBA)
    wanted = os.environ.get("NUMBA_CACHE_DIR")
    cure = "export NUMBA_CACHE_DIR=$HOME/.cache/numba, or another folder that can be written"
    if cache is None:
        return warning(f"{found}; no cache folder: every start compiles for seconds", cure)
    if wanted and Path(wanted).resolve() not in Path(cache).resolve().parents:
        return warning(f"{found}; NUMBA_CACHE_DIR={wanted} cannot be written, the cache is {cache}", cure)
    return ok(f"{found}, cache {cache}")
