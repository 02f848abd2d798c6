"""Files and folders that are whole under their names at every moment, also where the process that writes is killed.

What is being written has a hidden name that ends in ".part", which nobody reads. It takes its place when it is on the
disk. The next writer of the same name removes what a killed one has left.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file: at every moment its name stands for the former file or for all of this one.

    Raises:
        OSError: It cannot be written; the former file is as it was.
    """
    with whole_file(path) as part:
        part.write_bytes(content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the hidden name under which the caller writes a file, and moves that file into its place at the end.

    Raises:
        OSError: It cannot be written; the former file is as it was.
    """
    part = _hidden(path)
    try:
        yield part
        _sync(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def whole_folder(folder: Path, without: Set[str]) -> Iterator[Path]:
    """Gives a hidden copy of a folder for the caller to change, and puts it in the folder's place at the end.

    At every moment the name stands for the former folder or for all of the new one. File systems that cannot exchange
    folders are the exception, and folders that are mounted. There the files change one after the other, in the order in
    which the caller wrote them.

    Args:
        folder: It may be missing; then the copy is empty.
        without: Names in it that are not copied. The new folder lacks them unless the caller writes them.

    Raises:
        OSError: The copy cannot be written; the folder is as it was.
    """
    folder = folder.resolve()
    part = _hidden(folder)
    shutil.rmtree(part, ignore_errors=True)
    try:
        if folder.is_dir():
            shutil.copytree(folder, part, ignore=lambda of, _: without if Path(of) == folder else ())
        else:
            part.mkdir(parents=True)
        yield part
        for file in (*part.iterdir(), part):
            _sync(file)
        if not folder.is_dir():
            part.rename(folder)
        elif not _exchanged(part, folder):
            written = [part / name for name in without if (part / name).exists()]
            for file in sorted(written, key=lambda one: one.stat().st_mtime_ns):
                file.replace(folder / file.name)
            for name in without - {file.name for file in written}:
                (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _sync(folder.parent)


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change their names at once; False where the system cannot."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return exchange is not None and exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
