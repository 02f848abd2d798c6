"""A kill at any change of the disk leaves the former file or the new one under its name, and no half of a folder."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from scene_completion_ros import whole_files
from scene_completion_ros.whole_files import PART, tensor_bytes, whole_file, whole_folder, write_whole

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.link", "ctypes.dlsym"}


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


FILES = {"a": b"1", "b": b"2"}


def write_folder(folder: Path) -> None:
    with whole_folder(folder) as part:
        for name, content in FILES.items():
            (part / name).write_bytes(content)


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
        assert not folder.exists() or {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    assert seen == sorted(seen)
    assert seen.count(False) > 3


def test_a_folder_that_holds_something_is_not_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    with pytest.raises(OSError, match=r"not empty: '[^']*/folder'$"):
        write_folder(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


NAMES = ("a", "b", "old*")


def former_folder(place: Path) -> Path:
    folder = place / "folder"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "notes").write_bytes(b"mine")
    (folder / "link").symlink_to("nowhere")
    for name in ("a", "old_1"):
        (folder / name).write_bytes(b"former")
    return folder


def replace_folder(folder: Path, at_once: bool) -> None:
    with whole_folder(folder, NAMES, replace=True, at_once=at_once) as part:
        for name, content in FILES.items():
            (part / name).write_bytes(content)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


FORMER = {"a": b"former", "old_1": b"former", "mine/notes": b"mine"}
NEW = {**FILES, "mine/notes": b"mine"}


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_that_is_replaced_is_the_former_or_the_new_one_wherever_its_writer_is_killed(
    exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an exchange by the file system, there is one moment without it; the former one is then next to it."""
    if not exchanges:
        monkeypatch.setattr(whole_files.ctypes, "CDLL", lambda *_, **__: object())  # a library without it
    seen, killed = list[str](), True
    while killed:
        folder = former_folder(tmp_path / str(len(seen)))
        killed = killed_before(len(seen), lambda folder=folder: replace_folder(folder, at_once=True))
        if folder.exists():
            found = files_of(folder)
            assert found in (FORMER, NEW) and (folder / "link").is_symlink()
            seen.append("former" if found == FORMER else "new")
        else:
            (kept,) = folder.parent.glob(".folder.*.former")
            assert files_of(kept) == FORMER
            seen.append("between")
    assert seen.count("former") > 3 and seen.count("between") == (not exchanges) and seen[-1] == "new"
    assert seen == sorted(seen, key=("former", "between", "new").index)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]  # of the last one, which was not killed


def test_of_what_is_replaced_file_by_file_each_is_whole_and_none_is_lost(tmp_path: Path) -> None:
    seen, killed = list[bool](), True
    while killed:
        folder = former_folder(tmp_path / str(len(seen)))
        killed = killed_before(len(seen), lambda folder=folder: replace_folder(folder, at_once=False))
        left, placed = files_of(folder), {name: folder / name for name in FORMER}
        assert placed["mine/notes"].read_bytes() == b"mine" and placed["a"].read_bytes() in (b"former", FILES["a"])
        begun = placed["a"].read_bytes() != b"former"
        assert begun or placed["old_1"].exists()  # nothing goes before the new ones are whole
        done = all((folder / name).exists() for name in FILES) and not placed["old_1"].exists()
        assert done or list(left.values()).count(b"former") == 2  # in their places, or in the hidden folder
        seen.append(begun)
    assert seen == sorted(seen) and seen.count(True) > 3
    assert files_of(folder) == NEW


@pytest.mark.parametrize("at_once", [True, False])
def test_the_slower_of_two_writers_of_one_folder_gives_way(at_once: bool, tmp_path: Path) -> None:
    folder = former_folder(tmp_path)
    for name in ("a", "old_1"):
        (folder / name).unlink()

    def overtaken() -> None:
        with whole_folder(folder, NAMES, at_once=at_once) as slower:
            (slower / "a").write_bytes(b"slow")
            with whole_folder(folder, NAMES, at_once=at_once) as faster:
                (faster / "a").write_bytes(b"fast")

    with pytest.raises(OSError, match=r"not empty: '[^']*/folder'$" if at_once else r"exists: '[^']*/folder/a'$"):
        overtaken()
    assert files_of(folder) == {"a": b"fast", "mine/notes": b"mine"}
    left = {path.name for place in (tmp_path, folder) for path in place.iterdir()}
    assert left == {"folder", "a", "mine", "link"}


def test_the_slower_of_two_writers_of_one_file_gives_way(tmp_path: Path) -> None:
    def overtaken() -> None:
        with whole_file(tmp_path / "file", replace=False) as part:
            part.write_bytes(b"slow")
            write_whole(tmp_path / "file", b"fast")

    with pytest.raises(OSError, match=r"exists: '[^']*/file'$"):
        overtaken()
    assert (tmp_path / "file").read_bytes() == b"fast"


def test_a_failure_among_the_files_undoes_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename, calls = former_folder(tmp_path), whole_files._rename, iter(range(9))

    def fail_once(*move: object) -> None:
        if next(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(*move)

    monkeypatch.setattr(whole_files, "_rename", fail_once)
    with pytest.raises(OSError, match="No space"):
        replace_folder(folder, at_once=False)
    assert files_of(folder) == FORMER


def test_a_file_that_is_written_again_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "name"
    write_whole(file, b"a")
    file.chmod(0o600)
    write_whole(file, b"b")
    assert (file.stat().st_mode & 0o777, file.read_bytes()) == (0o600, b"b")


def test_many_processes_write_one_file(tmp_path: Path) -> None:
    path, writers = tmp_path / "name", set[int]()
    write_whole(path, b"z" * 200_000)
    for letter in b"abcdef":
        writer = os.fork()
        if not writer:
            try:
                for _ in range(10):
                    with whole_file(path) as part, part.open("wb") as file:
                        file.write(bytes([letter]) * 100_000)
                        time.sleep(0.001)  # others write meanwhile
                        file.write(bytes([letter]) * 100_000)
            except BaseException:
                os._exit(1)
            os._exit(0)
        writers.add(writer)
    while writers:
        writer, status = os.waitpid(-1, os.WNOHANG)
        writers.discard(writer)
        assert status == 0 and len(set(path.read_bytes())) == 1
    assert path.read_bytes()[:1] in b"abcdef"


def test_arrays_come_back_whatever_their_strides() -> None:
    """The library alone takes memory as it lies, and mixes up what is transposed."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"transposed": values.transpose(2, 0, 1), "every_other": values[..., ::2], "number": np.float32(3.0)}
    found = safetensors.numpy.load(tensor_bytes(arrays, {"about": "strides"}))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
