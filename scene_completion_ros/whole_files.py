"""Files and new folders that are whole under their names at every moment, also where the process that writes is killed.

What is being written lies in a hidden folder of its own that ends in ".part", which is not read. It takes its place
when it is on the disk, so that of several writers of one name each writes all or nothing. A killed writer leaves its
hidden folder. A file that is written again keeps its permissions.

What is replaced changes places with what is new, at one moment (renameat2 of Linux), and only then is removed. Where a
file system cannot do that, a kill at that moment leaves the former one whole, next to it, as .NAME.NUMBER.former.
"""

import ctypes
import errno
import glob
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART = ".part"
_NO_REPLACE, _EXCHANGE = 1, 2  # of renameat2
_HERE = -100  # AT_FDCWD: paths are relative to the working directory


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
def whole_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Gives the hidden path under which the caller writes a file, and moves that file into its place at the end.

    A link stays, and what it leads to is written. A device such as /dev/stdout is written as it is. Raises OSError
    where it cannot be written, or is there and not to be replaced; the former file is as it was.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        yield path
        return
    with _part_of(path) as part:
        yield part
        with suppress(OSError):  # it is new, or the file system knows no permissions
            shutil.copymode(path, part)
        _sync(part)
        part.replace(path) if replace else _rename(part, path, _NO_REPLACE)


@contextmanager
def whole_folder(
    folder: Path, names: Sequence[str] = ("*",), *, replace: bool = False, at_once: bool = True
) -> Iterator[Path]:
    """Gives a hidden folder for the caller to fill, and moves what is in it to its place at the end.

    `names`: names, and patterns of them, of what such a folder holds. If some are there already, all of them are
    replaced, or it raises OSError; what else is there stays. `at_once`: whether there is one moment at which the folder
    changes as a whole. It is then another folder of this name, and a mount cannot be that. Otherwise what is in it
    changes file by file: a kill meanwhile leaves new and former files, and the others of both in the hidden folder.
    Raises OSError where it cannot be written; all is then as it was.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    movable = at_once and not folder.is_mount() and os.access(folder.parent, os.W_OK)
    with _part_of(folder, inside=folder.is_dir() and not movable) as part:
        part.mkdir()
        yield part
        for file in part.iterdir():
            _sync(file)
        former = present(folder, names)
        if former and not replace:
            raise _taken(folder) if at_once else _taken(former[0], errno.EEXIST)
        if not folder.is_dir():
            _rename(part, folder, _NO_REPLACE)
        elif movable:
            gone = {str(folder): {one.name for one in (*former, *part.iterdir())}}
            shutil.copytree(folder, part, True, lambda at, _: gone.get(at, ()), _link, dirs_exist_ok=True)
            _rename(part, folder, _EXCHANGE)
            if not replace and present(part, names):  # another writer was faster
                _rename(part, folder, _EXCHANGE)
                raise _taken(folder)
        else:
            _move_in(part, folder, former, replace)


def present(folder: Path, names: Sequence[str]) -> list[Path]:
    """List what is in a folder, of names and patterns of them."""
    places = (str(Path(glob.escape(str(folder))) / name) for name in names)
    return sorted({Path(one) for place in places for one in glob.glob(place)})


def _move_in(part: Path, folder: Path, former: Sequence[Path], replace: bool) -> None:
    """Moves what is in `part` into a folder, and what is former there into `part`; all or nothing."""
    moves = [(one, folder / one.name) for one in sorted(part.iterdir())]
    moves += [(one, part / one.name) for one in former if not os.path.lexists(part / one.name)]
    done: list[tuple[Path, Path, int]] = []
    try:
        for source, target in moves:
            flag = _EXCHANGE if replace and os.path.lexists(target) else _NO_REPLACE
            _rename(source, target, flag)
            done.append((target, source, flag))
    except BaseException:
        for move in reversed(done):
            _rename(*move)
        raise


def _rename(source: Path, target: Path, flag: int) -> None:
    """Renames at one moment, by exchange with a target that is there or without replacing one. Raises OSError."""
    number = errno.ENOSYS
    with suppress(AttributeError):  # a system without it
        done = ctypes.CDLL(None, use_errno=True).renameat2(_HERE, os.fsencode(source), _HERE, os.fsencode(target), flag)
        number = ctypes.get_errno() if done else 0
    if number in (errno.ENOSYS, errno.EINVAL) and flag == _EXCHANGE:  # nor has the file system
        kept = target.with_name(f".{target.name}.{os.getpid()}.former")
        target.rename(kept)
        try:
            source.rename(target)
        finally:
            kept.rename(target if os.path.lexists(source) else source)
    elif number in (errno.ENOSYS, errno.EINVAL) and not os.path.lexists(target):
        source.rename(target)
    elif number:
        raise _taken(target, errno.EEXIST if os.path.lexists(target) else number)


def _taken(path: Path, number: int = errno.ENOTEMPTY) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def _link(source: str, target: str) -> None:
    """Makes a further name of a file, or a copy where that cannot be."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def _part_of(path: Path, *, inside: bool = False) -> Iterator[Path]:
    """A path of the same name in a hidden folder, next to it or in it, that is gone at the end."""
    prefix = f".{path.name}."
    try:
        place = path if inside else path.parent
        with TemporaryDirectory(PART, prefix, place, ignore_cleanup_errors=True) as hidden:
            yield Path(hidden, path.name)
    except OSError as error:  # names what the user knows
        if error.errno is not None:
            found = str(path if error.filename is None else error.filename)
            hidden = rf"/{re.escape(prefix)}\w+{re.escape(PART)}(/{re.escape(path.name)})?"
            error.filename = re.sub(hidden, lambda _: "" if inside else f"/{path.name}", found)
        if error.filename2 is not None:
            del error.filename2
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
