"""Memory, cores, GPUs and the cache of kernels."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scene_completion_ros.diagnosis import machine
from scene_completion_ros.diagnosis.child import Status

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.mark.parametrize(
    ("folder", "said"), [("/dev/no_such_folder", "is missing"), ("/proc", "cannot be written"), ("/dev/shm", "free")]
)
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, folder: str, said: str) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path(folder))
    finding = machine.check_shared_memory()
    assert said in finding.found
    assert (finding.status is Status.FAILED) == (folder != "/dev/shm")


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
