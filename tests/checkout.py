"""This checkout, processes that import it and nothing older, ROS domains, and what a machine may lack."""

import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def with_this_checkout(**variables: str) -> dict[str, str]:
    """The environment with this checkout before whatever is on the path, such as a sourced distribution.

    A ``PYTHONPATH`` among the variables that are given comes first.
    """
    path = os.pathsep.join(filter(None, (variables.get("PYTHONPATH"), str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **variables, "PYTHONPATH": path}


def run_python(
    *arguments: str | Path, cwd: Path = ROOT, timeout_s: float = 800.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, what it printed as text; `timeout_s` is for what hangs, not for what is slow."""
    command = [sys.executable, *map(str, arguments)]
    environment = with_this_checkout(**variables)
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def required(distribution: str, *extras: str) -> list[Requirement]:
    """What an installed distribution requires with some extras; nothing where it is not installed."""
    try:
        declared = list(map(Requirement, requires(distribution) or []))
    except PackageNotFoundError:  # a sourced ROS 2 distribution
        return []
    environments = [{"extra": extra} for extra in ("", *extras)]
    return [one for one in declared if one.marker is None or any(map(one.marker.evaluate, environments))]


def installed_with(extra: str) -> set[str]:
    """Names of all that installing the package with an extra brings, as far as it is installed here."""
    wanted, there = [Requirement(f"scene_completion_ros[{extra}]")], set()
    while wanted:
        requirement = wanted.pop()
        needed = {(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)}
        if needed - there:
            there |= needed
            wanted += required(requirement.name, *requirement.extras)
    return {name for name, _ in there}


def there(path: Path, reason: str) -> Path:
    """What no checkout has; the test is skipped where it is missing, and fails instead when `REQUIRE_DATA=1`."""
    if not path.exists():
        (pytest.fail if os.environ.get("REQUIRE_DATA") == "1" else pytest.skip)(reason)
    return path


FIRST, DOMAINS = 1, 89  # not 0, where a robot's own nodes are
_taken = itertools.count()


def next_domain() -> str:
    """The next ROS_DOMAIN_ID of this process: another one than those of pytest-xdist's other workers."""
    workers = min(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), DOMAINS)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
    turn = (os.getpid() // workers + next(_taken)) % (DOMAINS // workers)
    return str(FIRST + worker + workers * turn)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond so many bytes; a full disk gives ENOSPC instead of EFBIG, and both come as OSError."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)


def make_cuda_driver(folder: Path, gpus: int, error: int = 0) -> str:
    """Compile a driver library that sees GPUs called "G", or answers with an error; the path that has it found."""
    source = folder / "cuda.c"
    source.write_text(
        f"int cuInit(unsigned flags) {{ return {error}; }}\n"
        f"int cuDeviceGetCount(int *count) {{ *count = {gpus}; return 0; }}\n"
        "int cuDeviceGetName(char *name, int size, int device) { name[0] = 'G'; name[1] = 0; return 0; }\n",
        encoding="utf-8",
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    return f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"
