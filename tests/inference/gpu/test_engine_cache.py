"""Engines on disk: what is used, what is made again and why, and what other processes and full disks do to it."""

import fcntl
import logging
import os
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.engine_cache import EngineCache
from tests.checkout import full_disk

PLAN = bytes(range(256)) * 64
KEY = {"kind": "engine", "onnx_sha256": "0123456789abcdef" * 4, "version": "10.3.0", "multiprocessors": 16}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return EngineCache()


@pytest.fixture(autouse=True)
def all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="scene_completion_ros")


def is_built(cache: EngineCache, plan: bytes = PLAN, **other: Any) -> bool:
    """Asks for an engine; whether it was built now."""
    builds = []

    def build() -> tuple[bytes, bytes]:
        builds.append(plan)
        return plan, plan

    assert cache.provide({**KEY, **other}, lambda kept: kept, build) == plan
    return bool(builds)


def file(cache: EngineCache, **other: Any) -> Path:
    is_built(cache, **other)
    return cache.path({**KEY, **other})


def test_what_was_made_is_found_and_is_this_users_alone(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    assert [is_built(cache), is_built(cache)] == [True, False]
    assert file(cache).stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert {one.name for one in cache.folder.iterdir()} == {file(cache).name, "build.lock"}
    assert "'version': '10.3.0', 'multiprocessors': 16" in caplog.text  # for what it was made


@pytest.mark.parametrize("other", [{"version": "10.7.0"}, {"multiprocessors": 8}, {"kind": "kernels"}, {"gpu": ""}])
def test_an_engine_for_something_else_is_not_used(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    file(cache, **other).rename(cache.path(KEY))  # not even under the right name
    assert is_built(cache)
    assert "is not used: it is damaged, or was made for something else" in caplog.text
    assert is_built(cache, **other)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[:-1],
    "one bit of the plan": lambda whole: whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
    "one line alone": lambda whole: whole.partition(b"\n")[0],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_made_again(cache: EngineCache, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    path = file(cache)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert is_built(cache)
    assert f"{path} is not used: it is damaged" in caplog.text
    assert not is_built(cache)


def test_no_other_user_can_lay_an_engine(cache: EngineCache, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = file(cache)
    path.chmod(0o666)
    assert is_built(cache)
    assert "may be written by others (mode 666)" in caplog.text
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    assert is_built(cache) and not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    assert is_built(cache)
    assert "is no file" in caplog.text
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        assert is_built(cache)
        assert "belongs to user 12345" in caplog.text
    cache.folder.chmod(0o777)
    with pytest.raises(GpuError, match="may be written by others.*chmod 700"):
        EngineCache()


def test_a_full_disk_does_without_a_file(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    with full_disk(4096):
        assert is_built(cache, PLAN * 100)
    assert "the next start makes it again" in caplog.text
    assert [one.name for one in cache.folder.iterdir()] == ["build.lock"]


def test_a_build_waits_for_that_of_another_process_and_uses_it(cache: EngineCache) -> None:
    path = file(cache)
    built = path.read_bytes()
    path.unlink()
    with (cache.folder / "build.lock").open("w") as lock, futures.ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(is_built, cache)
        with pytest.raises(futures.TimeoutError):
            waiting.result(0.3)
        path.touch(0o600)
        path.write_bytes(built)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert not waiting.result(10.0)
