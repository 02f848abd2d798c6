"""A kill at any change of the disk leaves the former file or the new one under its name, and no half of a folder."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from scene_completion_ros.whole_files import PART, tensor_bytes, whole_file, whole_folder, write_whole

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir"}


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


def write_folder(folder: Path) -> None:
    with whole_folder(folder) as part:
        (part / "a").write_bytes(b"1")
        (part / "b").write_bytes(b"2")


def test_a_file_is_whole_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    file, seen = tmp_path / "file", []
    write_whole(file, b"before")
    while killed_before(len(seen), lambda: write_whole(file, b"after" * 1000)):
        seen.append(file.read_bytes())
    assert set(seen) == {b"before", b"after" * 1000}
    left = {path.name for path in tmp_path.iterdir()} - {"file"}
    assert all(name.startswith(".file.") and name.endswith(PART) for name in left)


def test_a_folder_is_missing_or_whole_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    seen, killed = [], True
    while killed:
        folder = tmp_path / str(len(seen)) / "folder"
        killed = killed_before(len(seen), lambda folder=folder: write_folder(folder))
        seen.append(folder.exists())
        if folder.exists():
            assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a": b"1", "b": b"2"}
    assert seen == sorted(seen)
    assert seen.count(False) > 3


def test_a_folder_that_holds_something_is_not_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    with pytest.raises(OSError, match=r"not empty: '[^']*/folder'$"):
        write_folder(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_that_is_written_again_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "name"
    write_whole(file, b"a")
    file.chmod(0o600)
    write_whole(file, b"b")
    assert (file.stat().st_mode & 0o777, file.read_bytes()) == (0o600, b"b")


def test_many_processes_write_one_file_and_some_are_killed(tmp_path: Path) -> None:
    path, writers = tmp_path / "name", []

    def write(letter: bytes, pause: Callable[[], None] = lambda: time.sleep(0.001)) -> None:
        with whole_file(path) as part, part.open("wb") as file:
            file.write(letter * 100_000)
            pause()
            file.write(letter * 100_000)

    write(b"z")
    for letter in b"abcdefgh":
        writers.append(os.fork())
        if not writers[-1]:
            try:
                for _ in range(10):
                    write(bytes([letter]))
                if letter in b"gh":  # is killed while it writes
                    write(b"?", lambda: os.kill(os.getpid(), signal.SIGKILL))
            except BaseException:
                os._exit(1)
            os._exit(0)
    ended: dict[int, int] = {}
    while len(ended) < len(writers):
        writer, status = os.waitpid(-1, os.WNOHANG)
        if writer:
            ended[writer] = os.waitstatus_to_exitcode(status)
        assert len(set(path.read_bytes())) == 1
    assert [ended[writer] for writer in writers] == [0] * 6 + [-signal.SIGKILL] * 2
    assert path.read_bytes()[:1] in b"abcdefgh"


def test_arrays_come_back_whatever_their_strides() -> None:
    """The library alone takes memory as it lies, and mixes up what is transposed."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"transposed": values.transpose(2, 0, 1), "every_other": values[..., ::2], "number": np.float32(3.0)}
    found = safetensors.numpy.load(tensor_bytes(arrays, {"about": "strides"}))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
