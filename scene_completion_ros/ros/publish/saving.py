"""Writes the last result to files in one folder: all of them or none, none over another, none outside of the folder."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.report.ply import ply_bytes
from scene_completion_ros.voxels.files import SavedVoxels, npz_bytes

CURES = {
    errno.ENOSPC: "The disk is full: make room",
    errno.EDQUOT: "The quota is used up: make room",
    errno.EFBIG: "The largest size of a file is limited (ulimit -f): raise the limit",
    errno.EROFS: "The file system is read-only: take another save_folder",
    errno.EACCES: "This user may not write there: change its permissions, or take another save_folder",
    errno.ENOENT: "The folder was removed: make it again",
    errno.EPERM: "Its file system may know no hard links: take another save_folder",
    errno.EOPNOTSUPP: "Its file system knows no hard links: take another save_folder",
}


_LEFT_OVER = re.compile(r"\.voxels_\d+_\d{9}\.(npz|ply)\.[0-9a-f]{8}\.part")


def save_result(folder: Path, result: SavedVoxels) -> list[Path]:
    """Write a result as `voxels_<seconds>_<nanoseconds>.npz` and `.ply`, by the stamp of its image.

    Args:
        folder: An existing folder.
        result: What to write (see `voxels.files` and `report.ply`).

    Raises:
        SceneCompletionError: One of them is there already, or they cannot be written; then none was.
    """
    seconds, nanoseconds = divmod(result.voxels.stamp_ns, 1_000_000_000)
    name = f"voxels_{seconds}_{nanoseconds:09d}"
    contents = {
        f"{name}.npz": npz_bytes(result),
        f"{name}.ply": ply_bytes(result.voxels),
    }
    return write_together(folder, contents)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files that become visible only once all of them are complete.

    The first one appears last: where it is, all are. Others that a crash left without it stay if they are the same.
    Everything is done relative to the opened folder, and names are only ever created. A link or a file that somebody
    laid under one of them is neither followed nor overwritten. What a crash leaves behind are hidden files that end in
    ".part"; the next call removes them, unless another process writes at that moment.

    Args:
        folder: An existing folder.
        contents: What to write, by plain file names.

    Raises:
        SceneCompletionError: A name is no plain one, is taken, or cannot be written; then none was.
    """
    for name in contents:
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise SceneCompletionError(f"{name!r} is no name of a file", where=str(folder))
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _explained(error, folder) from error
    made: list[str] = []
    try:
        _remove_left_overs(opened)
        for name, content in contents.items():
            _write_hidden(opened, name, content, made)
        temporary = list(made)
        first, *others = zip(contents, temporary, strict=True)
        for name, hidden in (*others, first):
            if name == first[0] or not _holds(opened, name, contents[name]):
                _make_visible(opened, folder, hidden, name)
                made.append(name)
        os.fsync(opened)
        made = temporary  # what is visible stays
    except OSError as error:
        raise _explained(error, folder) from error
    finally:
        for name in made:
            with suppress(OSError):
                os.unlink(name, dir_fd=opened)
        os.close(opened)
    return [folder / name for name in contents]


def _remove_left_overs(opened: int) -> None:
    """Remove hidden files of processes that were killed, where the lock of the folder says that nobody writes.

    Whoever writes shares that lock until the folder is closed.
    """
    with suppress(OSError):  # another process writes, or the file system knows no locks: they stay until later
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in filter(_LEFT_OVER.fullmatch, os.listdir(opened)):
            os.unlink(name, dir_fd=opened)
    with suppress(OSError):
        fcntl.flock(opened, fcntl.LOCK_SH)


def _write_hidden(opened: int, name: str, content: bytes, made: list[str]) -> None:
    hidden = f".{name}.{secrets.token_hex(4)}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(hidden, flags, 0o666, dir_fd=opened)
    made.append(hidden)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _holds(opened: int, name: str, content: bytes) -> bool:
    """Whether there is a file with a content."""
    with suppress(OSError):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=opened), "rb") as file:
            return file.read(len(content) + 1) == content
    return False


def _make_visible(opened: int, folder: Path, hidden: str, name: str) -> None:
    """Give a complete file its name; a link fails where the name is taken, a renaming would replace what has it."""
    try:
        os.link(hidden, name, src_dir_fd=opened, dst_dir_fd=opened, follow_symlinks=False)
    except FileExistsError as error:
        cure = "Move it away to save this result again"
        raise SceneCompletionError("is there already", where=str(folder / name), cure=cure) from error


def _explained(error: OSError, folder: Path) -> SceneCompletionError:
    cure = CURES.get(error.errno or 0, "Look at the folder, or take another save_folder")
    return SceneCompletionError(
        f"the node saved nothing: {os.strerror(error.errno or 0)}", where=str(folder), cure=cure
    )
