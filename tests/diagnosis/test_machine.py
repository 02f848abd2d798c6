"""Memory, cores, GPUs and the cache of kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.diagnosis import machine
from scene_completion_ros.diagnosis.findings import Status

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.mark.parametrize(
    ("folder", "said"), [("/dev/no_such_folder", "is missing"), ("/proc", "cannot be written"), ("/dev/shm", "free")]
)
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, folder: str, said: str) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path(folder))
    finding = machine.check_shared_memory()
    assert said in finding.found
    assert (finding.status is Status.FAILED) == (folder != "/dev/shm")


def test_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 2**60)
    finding = machine.check_shared_memory()
    assert finding.status is Status.WARNING
    assert "--shm-size" in finding.cure


@needs_compiler
@pytest.mark.parametrize(("error", "status", "said"), [(0, Status.OK, "Two, Two"), (100, Status.WARNING, "error 100")])
def test_what_the_cuda_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, status: Status, said: str
) -> None:
    """A driver library that sees two devices called "Two", or none."""
    source = tmp_path / "cuda.c"
    source.write_text(
        f"int cuInit(unsigned flags) {{ return {error}; }}\n"
        "int cuDeviceGetCount(int *count) { *count = 2; return 0; }\n"
        "int cuDeviceGetName(char *name, int size, int device) { name[0] = 'T'; name[1] = 'w'; name[2] = 'o';"
        " name[3] = 0; return 0; }\n",
        encoding="utf-8",
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(source)], check=True)
    libraries = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:{libraries}")
    finding = machine.check_gpu()
    assert finding.status is status
    assert said in finding.found
    assert ("engine auto takes it" if status is Status.OK else "the default engine runs on the CPU") in finding.found


def test_gpu_packages_that_cannot_be_imported_do_no_harm(
    distribution_in_front: Callable[..., None], extra_modules: Callable[..., None]
) -> None:
    distribution_in_front("tensorrt", "10.3.0")
    extra_modules(tensorrt="raise ImportError('libnvinfer.so.10: no such file')")
    finding = machine.check_gpu_packages()
    assert finding.status is Status.WARNING
    assert "libnvinfer.so.10" in finding.found
    assert "nothing is missing" in finding.found
    extra_modules(tensorrt="")
    finding = machine.check_gpu_packages()
    assert (finding.status, finding.details["tensorrt"]) == (Status.OK, "10.3.0")
    assert "needs pycuda, too" in finding.found


def test_another_version_of_tensorrt_is_warned_about(
    distribution_in_front: Callable[..., None], extra_modules: Callable[..., None]
) -> None:
    distribution_in_front("tensorrt", "8.6.1")
    extra_modules(tensorrt="")
    finding = machine.check_gpu_packages()
    assert finding.status is Status.WARNING
    assert "tensorrt is version 8.6.1, needed is 10.3 to 11.4" in finding.found


def test_more_programs_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    idle = machine.check_cpu()
    assert idle.status is Status.OK
    assert "NUMBA_NUM_THREADS=1" in idle.found
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert machine.check_cpu().status is Status.WARNING


def test_where_compiled_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    finding = machine.check_kernels()
    assert finding.status is Status.OK
    assert list((tmp_path / "cache").rglob("*.nbi"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    finding = machine.check_kernels()
    assert finding.status is Status.WARNING
    assert f"NUMBA_CACHE_DIR={tmp_path / 'file' / 'cache'} cannot be written" in finding.found
    assert "export NUMBA_CACHE_DIR=" in finding.cure


def test_kernels_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba may only look at a folder that cannot be made."""
    numba = pytest.importorskip("numba")
    if not hasattr(numba.config, "CACHE_LOCATOR_CLASSES"):
        pytest.skip("this numba looks for a folder everywhere, and root may write everywhere")
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    finding = machine.check_kernels()
    assert finding.status is Status.WARNING
    assert "no cache folder" in finding.found
