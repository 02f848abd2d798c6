"""Engines on disk: what is used, what is built again and why, and what other processes and full disks do to it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.engine_cache import EngineCache, EngineKey, default_folder
from scene_completion_ros.inference.gpu.sealed_file import LARGEST_HEADER, MAGIC
from tests.checkout import ROOT
from tests.inference.gpu.small_gpu_bundle import some_key
from tests.unprivileged import unprivileged

PLAN = bytes(range(256)) * 64
KEY = some_key()


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture(autouse=True)
def all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="scene_completion_ros")


def store(cache: EngineCache, key: EngineKey = KEY, plan: bytes = PLAN) -> Path:
    with cache.locked():
        path = cache.store(key, plan, {"parity": {"map_error": 0.5}})
    assert path is not None
    return path


def test_what_is_stored_is_found(cache: EngineCache) -> None:
    path = store(cache)
    found = cache.load(KEY)
    assert found is not None
    assert found.plan == PLAN
    assert found.record == {"parity": {"map_error": 0.5}}
    assert found.path == path
    assert path.stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in cache.folder.iterdir()} == {path.name, "build.lock"}


OTHERS = {
    "onnx_sha256": "f" * 64,
    "flavour": "tensorrt_rtx",
    "tensorrt_version": "10.7.0",
    "machine": "x86_64",
    "gpu_name": "NVIDIA H200",
    "compute_capability": "9.0",
    "multiprocessors": 8,
    "precision": "int8",
    "batch": (1, 4),
    "image": (96, 320),
    "features": (96, 320, 128),
    "workspace_mib": 512,
    "volume": (256, 256, 32),
    "depth": (96, 320),
    "dla_core": 0,
    "schema": 0,
}


@pytest.mark.parametrize("name", EngineKey.__dataclass_fields__)
def test_an_engine_for_something_else_is_not_used(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    other = some_key(**{name: OTHERS[name]})
    stored = store(cache, other)
    assert cache.load(KEY) is None
    stored.rename(cache.path(KEY))  # also where it lies under the right name
    assert cache.load(KEY) is None
    value = other.fields()[name]
    assert f"{name} is {value}, needed is {KEY.fields()[name]}; the node builds it again" in caplog.text


def test_the_log_says_what_differs_from_the_engines_there_are(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.load(KEY) is None
    assert "there is none" in caplog.text
    path = store(cache, some_key(tensorrt_version="10.7.0", gpu_name="Orin NX"))
    assert cache.load(KEY) is None
    assert (
        f"{path} cannot be used: tensorrt_version is 10.7.0, needed is 10.3.0, gpu_name is Orin NX, needed is Orin"
        in caplog.text
    )
    caplog.clear()
    assert cache.load(KEY, explain=False) is None
    assert not caplog.text


HEADER = len(MAGIC) + 4
DAMAGES = {
    "empty": lambda whole: b"",
    "foreign": lambda whole: b"\x7fELF" + whole[4:],
    "cut off": lambda whole: whole[:-1],
    "in the header": lambda whole: whole[: HEADER - 1],
    "longer": lambda whole: whole + b"\0",
    "one bit of the plan": lambda whole: whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
    "a header of four gigabytes": lambda whole: MAGIC + b"\xff\xff\xff\xff" + whole[HEADER:],
    "no JSON": lambda whole: whole[:HEADER] + b"!" + whole[HEADER + 1 :],
    "no UTF-8": lambda whole: whole[:HEADER] + b"\xff" + whole[HEADER + 1 :],
    **{
        f"header {header[:20]!r}": lambda whole, header=header: with_header(header)
        for header in (
            "[]",
            "[" * 50_000,
            '{"payload_bytes": 3}',
            '{"payload_bytes": true, "payload_sha256": ""}',
            '{"payload_bytes": 3, "payload_sha256": "", "key": []}',
            '{"payload_bytes": 3, "payload_sha256": "", "key": {"schema": {}}}',
            " " * (LARGEST_HEADER + 1),
        )
    },
}


def with_header(text: str) -> bytes:
    return MAGIC + len(text).to_bytes(4, "little") + text.encode() + b"abc"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_built_again(cache: EngineCache, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    path = store(cache)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert cache.load(KEY) is None
    assert "the node builds it again" in caplog.text
    store(cache)
    assert cache.load(KEY) is not None


def test_no_other_user_can_lay_an_engine(cache: EngineCache, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = store(cache)
    path.chmod(0o666)
    assert cache.load(KEY) is None
    assert "may be written by others (mode 666)" in caplog.text
    path.chmod(0o600)
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    assert cache.load(KEY) is None
    path.unlink()
    os.mkfifo(path)
    assert cache.load(KEY) is None
    assert "is no file" in caplog.text
    cache.folder.chmod(0o777)
    with pytest.raises(GpuError, match="may be written by others.*chmod 700"):
        EngineCache(cache.folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_engines_of_other_users_are_not_used(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    path = store(cache)
    os.chown(path, 12345, -1)
    assert cache.load(KEY) is None
    assert "belongs to user 12345" in caplog.text


def test_an_engine_in_a_folder_that_cannot_be_written_is_used() -> None:
    folder = Path("/tmp") / f"scene_completion_engines_{os.getpid()}"
    cache = EngineCache(folder)
    try:
        path = store(cache)
        path.chmod(0o644)
        folder.chmod(0o555)
        with unprivileged():
            as_nobody = EngineCache(folder)
            if os.geteuid() != path.stat().st_uid:  # of root, whom everybody trusts
                assert as_nobody.load(KEY) is not None
                with pytest.raises(GpuError, match="cannot be written to"), as_nobody.locked():
                    pass
    finally:
        folder.chmod(0o700)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may become larger; a full disk says ENOSPC instead of EFBIG, and both come as OSError."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_the_former_engine(cache: EngineCache) -> None:
    path = store(cache)
    before = path.read_bytes()
    with cache.locked(), full_disk(4096):
        stored = cache.store(KEY, PLAN * 100, {})
    assert stored is None
    assert path.read_bytes() == before
    assert cache.load(KEY) is not None
    assert {file.name for file in cache.folder.iterdir()} == {path.name, "build.lock"}


def test_what_a_killed_process_left_is_removed(cache: EngineCache) -> None:
    left_over = cache.folder / f".{cache.path(KEY).name}.abc.part"
    left_over.write_bytes(b"half an engine")
    store(cache)
    assert not left_over.exists()


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache(tmp_path / "engines", limit_bytes=3 * len(PLAN))
    keys = [some_key(workspace_mib=size) for size in (100, 200, 300)]
    paths = []
    for age, key in enumerate(keys[:2]):
        paths.append(store(cache, key))
        os.utime(paths[-1], ns=(age, age))
    assert cache.load(keys[0]) is not None  # a use
    assert paths[0].stat().st_mtime_ns > paths[1].stat().st_mtime_ns
    store(cache, keys[2])
    assert paths[0].exists()
    assert not paths[1].exists()
    assert f"{paths[1]} is removed" in caplog.text
    store(cache, keys[1], PLAN * 4)  # larger than all that is allowed
    assert cache.load(keys[1]) is not None


def test_timings_belong_to_the_gpu_and_the_version(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.load_timings(KEY) == b""
    with cache.locked():
        cache.store_timings(KEY, b"timings")
    assert cache.load_timings(some_key(precision="int8", onnx_sha256="a" * 64)) == b"timings"
    for name in ("tensorrt_version", "gpu_name", "multiprocessors"):
        assert cache.load_timings(some_key(**{name: OTHERS[name]})) == b""
    (file,) = cache.folder.glob("*.timing")
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.load_timings(KEY) == b""
    assert "are not used" in caplog.text


BUILDER = """
import sys
from pathlib import Path
from scene_completion_ros.inference.gpu.engine_cache import EngineCache
from tests.inference.gpu.small_gpu_bundle import some_key

cache = EngineCache(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
if cache.load(some_key()) is None:
    with cache.locked():
        if cache.load(some_key(), explain=False) is None:
            with (cache.folder.parent / "builds").open("a") as builds:
                builds.write("built\\n")
            cache.store(some_key(), b"plan" * 1000, {})
print(len(cache.load(some_key()).plan), flush=True)
"""


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processes_build_one_engine_between_them(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    processes = [start(BUILDER, folder) for _ in range(3)]
    for process in processes:
        heard(process, "ready")
    for process in processes:
        go(process)
    assert [process.communicate()[0] for process in processes] == ["4000\n"] * 3
    assert (tmp_path / "builds").read_text().splitlines() == ["built"]


HOLDER = """
import sys
from pathlib import Path
from scene_completion_ros.inference.gpu.engine_cache import EngineCache

with EngineCache(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.readline()
"""


def test_a_killed_builder_holds_nobody_up(cache: EngineCache) -> None:
    holder = start(HOLDER, cache.folder)
    heard(holder, "locked")
    waiter = start(BUILDER, cache.folder)
    heard(waiter, "ready")
    go(waiter)
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.wait(0.5)
    holder.kill()
    holder.wait()
    assert waiter.communicate()[0] == "4000\n"


def test_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "scene_completion_ros" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "scene_completion_ros" / "engines"
    (tmp_path / "home").write_text("a file")
    with pytest.raises(GpuError, match="cannot be made"):
        EngineCache()
