"""A kill at any change of the disk leaves the former file or folder, or the new one, under its name."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from scene_completion_ros import whole_files
from scene_completion_ros.whole_files import PART, tensor_bytes, whole_file, whole_folder, write_whole

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "ctypes.dlsym"}
OLD = {"a": b"1", "b": b"1", "gone": b"1", "more/kept": b"1"}
NEW = {"a": b"2", "b": b"2", "more/kept": b"1"}


def killed_before(number: int, work: Callable[[], object]) -> bool:
    """Does something in a process that dies before its n-th call of `CHANGES`; whether it came to that."""
    child = os.fork()
    if not child:
        calls = iter(range(number))

        def count(name: str, _: object) -> None:
            if name in CHANGES and next(calls, None) is None:
                os._exit(9)

        sys.addaudithook(count)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def make_old(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "more").mkdir(parents=True)
    for name, content in OLD.items():
        (folder / name).write_bytes(content)
    return folder


def change(folder: Path) -> None:
    with whole_folder(folder, {"a", "b", "gone"}) as part:
        (part / "a").write_bytes(b"2")
        (part / "b").write_bytes(b"2")


def test_a_file_is_whole_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    file, seen = tmp_path / "file", []
    write_whole(file, b"before")
    while killed_before(len(seen), lambda: write_whole(file, b"after" * 1000)):
        seen.append(file.read_bytes())
    assert set(seen) == {b"before", b"after" * 1000}
    write_whole(file, b"before")
    assert contents(tmp_path) == {"file": b"before"}  # nothing is left of all who were killed


def test_a_folder_is_whole_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    folder, seen, killed = tmp_path / "folder", [], True
    while killed:
        make_old(folder)
        killed = killed_before(len(seen), lambda: change(folder))
        assert contents(folder) in (OLD, NEW), f"killed before change {len(seen)}"
        seen.append(contents(folder) == NEW)
    assert seen == sorted(seen)
    assert seen.count(False) > 5
    assert seen.count(True) > 1  # the old folder is removed after the exchange
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_folders_that_cannot_be_exchanged_change_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def replace(self: Path, target: Path) -> Path:
        order.append(target.name)
        return self.rename(target)

    monkeypatch.setattr(whole_files, "_exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "replace", replace)
    change(make_old(tmp_path / "folder"))
    assert contents(tmp_path / "folder") == NEW
    assert order == ["a", "b"]  # so that a manifest can come last


def write_file(path: Path, letter: bytes, pause: Callable[[], None] = lambda: None) -> None:
    with whole_file(path) as part, part.open("wb") as file:
        file.write(letter * 100_000)
        pause()
        file.write(letter * 100_000)


def write_folder(path: Path, letter: bytes, pause: Callable[[], None] = lambda: None) -> None:
    with whole_folder(path, {"first", "second"}) as part:
        (part / "first").write_bytes(letter * 1000)
        pause()
        (part / "second").write_bytes(letter * 1000)


def letters(path: Path) -> set[int]:
    files = [path / "first", path / "second"] if path.is_dir() else [path]
    return {letter for file in files for letter in file.read_bytes()}


both_kinds = pytest.mark.parametrize("write", [write_file, write_folder])


@both_kinds
def test_what_is_written_again_keeps_its_permissions(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "name"
    write(path, b"a")
    modes = {one: 0o701 if one.is_dir() else 0o600 for one in (path, *path.rglob("*"))}
    for one, mode in modes.items():
        one.chmod(mode)
    write(path, b"b")
    assert {one: one.stat().st_mode & 0o777 for one in modes} == modes and letters(path) == {ord("b")}


@both_kinds
def test_many_processes_write_one_name_and_some_are_killed(tmp_path: Path, write: Callable[..., None]) -> None:
    path, writers = tmp_path / "name", []
    write(path, b"z")
    for letter in b"abcdefgh":
        writers.append(os.fork())
        if not writers[-1]:
            try:
                for _ in range(10):
                    write(path, bytes([letter]), lambda: time.sleep(0.001))
                if letter in b"gh":  # is killed while it writes
                    write(path, b"?", lambda: os.kill(os.getpid(), signal.SIGKILL))
            except BaseException:
                os._exit(1)
            os._exit(0)
    ended: dict[int, int] = {}
    while len(ended) < len(writers):
        writer, status = os.waitpid(-1, os.WNOHANG)
        if writer:
            ended[writer] = os.waitstatus_to_exitcode(status)
        if path.is_file():
            assert len(letters(path)) == 1
    assert [ended[writer] for writer in writers] == [0] * 6 + [-signal.SIGKILL] * 2
    assert len(letters(path)) == 1 and letters(path) <= set(b"abcdefgh")
    write(path, b"z")
    assert [left.name for left in tmp_path.iterdir()] == ["name"]


@both_kinds
def test_what_a_killed_writer_left_goes_and_what_others_have_stays(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "name"
    assert killed_before(10**6, lambda: write(path, b"a", lambda: os._exit(9)))
    assert len(list(tmp_path.glob(f".name.*{PART}"))) == 1
    others = [tmp_path / f"{name}{PART}" for name in (".name", ".name.mine", ".name2.0123abcd", "name.0123abcd")]
    for other in others:
        other.touch()
    write(path, b"a")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_arrays_come_back_whatever_their_strides() -> None:
    """The library alone takes memory as it lies, and mixes up what is transposed."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"transposed": values.transpose(2, 0, 1), "every_other": values[..., ::2], "number": np.float32(3.0)}
    found = safetensors.numpy.load(tensor_bytes(arrays, {"about": "strides"}))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
