"""Files and folders that are whole under their names at every moment, also where the process that writes is killed.

What is being written lies in a hidden folder of its own that ends in ".part", which is not read. It takes its place
when it is on the disk, so that of several writers of one name each writes all or nothing. A writer has its hidden
folder locked. The next writer of the same name removes those that are not locked, which killed writers have left.
What is written again keeps its permissions.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART = ".part"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file: its name stands for the former or for all of this. Raises OSError, the former as it was."""
    with whole_file(path) as part:
        part.write_bytes(content)


def tensor_bytes(tensors: "Mapping[str, NDArray[Any]]", metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of arrays with any strides.

    The library takes the memory of an array as it lies: one that is transposed would come back with its values mixed
    up, under the right shape.
    """
    import numpy as np  # commands that only say what they do take paths from here
    import safetensors.numpy

    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in tensors.items()}, metadata)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the hidden path under which the caller writes a file, and moves that file into its place at the end.

    A link stays, and what it leads to is written. A device such as /dev/stdout is written as it is. Raises OSError
    where it cannot be written; the former file is as it was.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        yield path
        return
    with _part_of(path) as part:
        yield part
        _keep_modes(path, part)
        _sync(part)
        part.replace(path)
    _sync(path.parent)


@contextmanager
def whole_folder(folder: Path, without: Set[str] | None) -> Iterator[Path]:
    """Gives a hidden copy of a folder for the caller to change, and puts it in the folder's place at the end.

    At every moment the name stands for the former folder or for all of the new one. File systems that cannot exchange
    folders are the exception, and folders that are mounted. There the files change one after the other, in the order in
    which the caller wrote them; where nothing is copied, the former folder goes before the new one comes. Raises
    OSError where the copy cannot be written; the folder is as it was. `folder`: it may be missing; then the copy is
    empty; `without`: names in it that are not copied. The new folder lacks them unless the caller writes them. None:
    nothing is copied.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _part_of(folder) as part:
        part.mkdir()
        if without is not None:
            _copy(folder, part, without)
        yield part
        _keep_modes(folder, part)
        for file in (*part.iterdir(), part):
            _sync(file)
        # The second exchange is for a folder that another writer has made meanwhile.
        if _exchanged(part, folder) or _renamed(part, folder) or _exchanged(part, folder):
            pass
        elif without is None:
            _remove(folder)
            part.rename(folder)
        else:
            written = [part / name for name in without if (part / name).exists()]
            for file in sorted(written, key=lambda one: one.stat().st_mtime_ns):
                file.replace(folder / file.name)
            for name in without - {file.name for file in written}:
                (folder / name).unlink(missing_ok=True)
    _sync(folder.parent)


@contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """A path of the same name in a hidden folder, gone at the end like those of killed writers."""
    hidden = rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}{re.escape(PART)}"
    try:
        for left in filter(lambda other: re.fullmatch(hidden, other.name), path.parent.iterdir()):
            with suppress(OSError):
                lock = _lock(left)
                _remove(left)
                os.close(lock)
        folder, own_lock = _locked_folder(path)
        try:
            yield folder / path.name
        finally:
            _remove(folder)
            if own_lock is not None:
                os.close(own_lock)
    except OSError as error:  # names what the user knows
        if error.errno is not None:
            found = str(path if error.filename is None else error.filename)
            error.filename = re.sub(f"{hidden}(/{re.escape(path.name)})?", lambda _: path.name, found)
        if error.filename2 is not None:
            del error.filename2
        raise


def _locked_folder(path: Path) -> tuple[Path, int | None]:
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
        folder.mkdir(0o700)  # what is written may replace a private file
        try:
            return folder, _lock(folder)
        except (BlockingIOError, FileNotFoundError):  # another writer found it before it was locked
            continue
        except OSError:  # a file system without locks: folders of others are not removed either
            return folder, None


def _lock(folder: Path) -> int:
    """Keeps other writers from removing a hidden folder, until the descriptor is closed or the process ends.

    Raises BlockingIOError where it is another writer's; FileNotFoundError: another writer has removed it; OSError where
    it is no folder, or the file system knows no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _copy(folder: Path, part: Path, without: Set[str]) -> None:
    """Copies a folder, if there is one, as it is at one moment: anew where another writer replaces it meanwhile."""

    def left_out(of: str, _: list[str]) -> Set[str]:
        return without if Path(of) == folder else frozenset()

    while folder.is_dir():
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # nothing else gets its inode
        try:
            shutil.copytree(folder, part, ignore=left_out, dirs_exist_ok=True)
            if os.path.samestat(folder.stat(), os.fstat(opened)):
                return
        except OSError:
            if os.path.samestat(folder.stat(), os.fstat(opened)):
                raise
        finally:
            os.close(opened)
        for child in part.iterdir():
            _remove(child)


def _keep_modes(former: Path, part: Path) -> None:
    """Gives a file or folder, and what is in it, the permissions of what it replaces."""
    for new in (part, *part.rglob("*")):
        with suppress(OSError):  # it is new, or the file system knows no permissions
            shutil.copymode(former / new.relative_to(part), new, follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


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


def _renamed(part: Path, folder: Path) -> bool:
    """Gives a folder the name of another one that is missing or empty; False where it is neither, or mounted."""
    try:
        part.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY):
            raise
        return False
    return True
