"""Files and new folders that are whole under their names at every moment, also where the process that writes is killed.

What is being written lies in a hidden folder of its own that ends in ".part", which is not read. It takes its place
when it is on the disk, so that of several writers of one name each writes all or nothing. A killed writer leaves its
hidden folder. A file that is written again keeps its permissions.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART = ".part"


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
        with suppress(OSError):  # it is new, or the file system knows no permissions
            shutil.copymode(path, part)
        _sync(part)
        part.replace(path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a hidden folder for the caller to fill, and moves it to its place at the end.

    Raises OSError where it cannot be written, or where there is a folder of this name that is not empty.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _part_of(folder) as part:
        part.mkdir()
        yield part
        for file in part.iterdir():
            _sync(file)
        part.rename(folder)


@contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """A path of the same name in a hidden folder that is gone at the end."""
    prefix = f".{path.name}."
    try:
        with TemporaryDirectory(PART, prefix, path.parent, ignore_cleanup_errors=True) as hidden:
            yield Path(hidden, path.name)
    except OSError as error:  # names what the user knows
        if error.errno is not None:
            found = str(path if error.filename is None else error.filename)
            hidden = rf"{re.escape(prefix)}\w+{re.escape(PART)}(/{re.escape(path.name)})?"
            error.filename = re.sub(hidden, lambda _: path.name, found)
        if error.filename2 is not None:
            del error.filename2
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
