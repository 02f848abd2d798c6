"""A kill at any change of the disk leaves the former file or folder, or the new one, under its name."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros import whole_files
from scene_completion_ros.whole_files import whole_folder, write_whole

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


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "card.html"
    write_whole(file, b"before")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        write_whole(file, b"after")
    assert contents(tmp_path) == {"card.html": b"before"}


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


def test_a_folder_that_cannot_be_exchanged_changes_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def replace(self: Path, target: Path) -> Path:
        order.append(target.name)
        return self.rename(target)

    monkeypatch.setattr(whole_files, "_exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "replace", replace)
    change(make_old(tmp_path / "folder"))
    assert contents(tmp_path / "folder") == NEW
    assert order == ["a", "b"]  # whoever writes a manifest writes it last


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    make_old(tmp_path / "folder")
    (tmp_path / "link").symlink_to("folder")
    change(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "folder") == NEW


def test_a_failure_leaves_the_former_folder(tmp_path: Path) -> None:
    folder = make_old(tmp_path / "folder")

    def fail() -> None:
        with whole_folder(folder, {"a"}) as part:
            (part / "a").write_bytes(b"2")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert contents(tmp_path) == {f"folder/{name}": content for name, content in OLD.items()}
