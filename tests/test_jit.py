import errno
import fcntl
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

from scene_completion_ros import jit
from tests.checkout import with_this_checkout


def test_kernels_compile_where_no_cache_can_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jit.compilation, "compiled", 0)
    caplog.set_level("INFO", "scene_completion_ros")

    def no_cache(dispatcher: object) -> None:
        raise RuntimeError("cannot cache function: no locator available for file")

    monkeypatch.setattr(Dispatcher, "enable_caching", no_cache)

    @jit.kernel(parallel=False)
    def double(x: float) -> float:
        return 2.0 * x

    assert double(4.0) == 8.0
    assert caplog.messages == [
        "Compiling kernels, about a minute in each process: no folder for their cache can be written "
        "(NUMBA_CACHE_DIR names one)"
    ]


def test_a_cached_kernel_is_old_when_a_function_of_another_file_in_it_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "caller_of_changing.py").write_text(
        "import changing\n"
        "from changing import changed\n"
        "from scene_completion_ros.jit import kernel\n"
        "@kernel(parallel=False, inlines=(changing,))\n"
        "def called(x):\n"
        "    return changed(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its stamps are whole seconds
    for factor in (2.0, 3.0, 2.0):
        (tmp_path / "changing.py").write_text(
            f"from scene_completion_ros.jit import inlined\n@inlined\ndef changed(x):\n    return {factor} * x\n"
        )
        for name in ("changing", "caller_of_changing"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        called = importlib.import_module("caller_of_changing").called
        assert called.stats.cache_path is None  # nothing touches the disk before the first call
        assert called(4.0) == factor * 4.0


def test_a_file_system_without_locks_costs_only_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)

    @jit.kernel(parallel=False)
    def halve(x: float) -> float:
        return x / 2.0

    assert halve(4.0) == 2.0


def test_of_processes_that_start_together_one_compiles(tmp_path: Path) -> None:
    (tmp_path / "needed.py").write_text(
        "import sys\n"
        "from scene_completion_ros.jit import kernel\n"
        "def triple(x):\n"
        "    return 3.0 * x\n"
        "triple = kernel(parallel=False)(triple)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "assert triple(2.0) == 6.0\n"
        "print(sum(triple.stats.cache_misses.values()))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": with_this_checkout()}
    together = [subprocess.Popen([sys.executable, tmp_path / "needed.py"], **pipes) for _ in range(3)]
    for process in together:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in together:
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(process.communicate()[0] for process in together) == ["0\n", "0\n", "1\n"]


def test_the_first_start_says_that_kernels_are_compiled_and_the_second_nothing(tmp_path: Path) -> None:
    """One line where it is no terminal; a terminal also shows each kernel."""
    (tmp_path / "needed.py").write_text(
        "import sys\n"
        "from scene_completion_ros.jit import compilation, inlined, kernel\n"
        "from scene_completion_ros.progress import Progress, forwarded_log\n"
        "@inlined\n"
        "def twice(x):\n"
        "    return 2.0 * x\n"
        "@kernel(parallel=False)\n"
        "def five_times(x):\n"
        "    return twice(x) + twice(x) + x\n"
        "progress = Progress()\n"
        "progress._terminal = len(sys.argv) > 1\n"
        "with forwarded_log(progress):\n"
        "    assert five_times(2.0) == 10.0 and five_times(1) == 5.0\n"
        "print(compilation.compiled, compilation.running)\n"
    )
    environment = with_this_checkout() | {"NUMBA_CACHE_DIR": str(tmp_path / "first")}
    runs = [
        (environment, ()),
        (environment, ()),
        (environment | {"NUMBA_CACHE_DIR": str(tmp_path / "other")}, ("terminal",)),
    ]
    said = []
    for where, more in runs:
        command = [sys.executable, str(tmp_path / "needed.py"), *more]
        done = subprocess.run(command, env=where, capture_output=True, text=True, check=True)
        said.append((done.stdout, done.stderr))
    line = "Compiling kernels, once, about a minute\n"
    assert said[0] == ("2 False\n", line)
    assert said[1] == ("0 False\n", "")
    assert re.fullmatch(line + r"\n1 kernels are compiled\n2 kernels are compiled", said[2][1])
