"""Python and packages."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.diagnosis import machine, packages
from scene_completion_ros.diagnosis.check import Status
from tests.diagnosis.needed import finding_of


def test_missing_and_old_packages_are_named(distribution_in_front: Callable[..., None]) -> None:
    needed = "Requires-Dist: no-such-thing>=2\nRequires-Dist: numba>=0.57\nRequires-Dist: numpy\n"
    distribution_in_front("scene_completion_ros", "9", f"Requires-Python: >=3.99\n{needed}")
    distribution_in_front("numba", "0.56.4")
    finding = packages.check_packages({})
    assert finding.status is Status.FAILED
    assert finding.found == "no-such-thing is missing (>=2 is needed), numba 0.56.4 (>=0.57 is needed)"
    assert finding.cure == f"{sys.executable} -m pip install 'no-such-thing>=2' 'numba>=0.57'"
    assert packages.check_python({}).status is Status.FAILED


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.mark.parametrize(
    ("folder", "said"), [("/dev/no_such_folder", "is missing"), ("/proc", "cannot be written"), ("/dev/shm", "free")]
)
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, folder: str, said: str) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path(folder))
    finding = machine.check_shared_memory({})
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
    finding = finding_of("GPU")
    assert finding.status is status
    assert said in finding.found
    assert ("engine auto takes it" if status is Status.OK else "the default engine runs on the CPU") in finding.found
