"""One store of what trainings keep on disk: prepared frames, samples, scenes of points, feature maps.

An entry is a folder NAME-HASH of the store. The hash is that of all that its files follow from, and of the version of
their maker: what follows from something else lies in another entry, and nothing there is ever stale. Files are arrays
in safetensors, whole at every moment, so that several processes may fill and read an entry at a time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.progress import Progress
from scene_completion_ros.whole_files import tensor_bytes, write_whole

AGAIN = "Delete it: it is made again at the next start"
Arrays: TypeAlias = Mapping[str, NDArray[Any]]
_FILES_A_PROCESS = 8  # fewer are not worth a process of their own, which first imports all that this one has
_PARTS_A_PROCESS = 8


def keyed(name: str, made_of: Any) -> str:
    """The folder of an entry: its name, and the hash of all that it follows from, which are plain values."""
    content = json.dumps(made_of, sort_keys=True, default=str)
    return f"{name.replace('/', '_')}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def damaged(file: Path, found: object, cure: str = AGAIN) -> SequenceError:
    """The error for a stored file that holds something else."""
    return SequenceError(f"damaged ({found})", where=str(file), cure=cure)


def mapped_arrays(file: Path, cure: str = AGAIN) -> dict[str, NDArray[Any]]:
    """Arrays of a safetensors file that are read from disk when they are looked at.

    The mapping outlives the file's descriptor, where NumPy's would keep one a file, of 1024 that a process may have; of
    mappings Linux allows 65 530. Raises SequenceError where the file is damaged; OSError where it cannot be read.
    """
    arrays = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                arrays[name] = opened.get_tensor(name).numpy()
                arrays[name].setflags(write=False)
    except (SafetensorError, TypeError) as error:
        raise damaged(file, error, cure) from error
    return arrays


class Entry:
    """Files with arrays in a folder, by names that may lead into folders of it; `cure`: for what is damaged there."""

    def __init__(self, folder: Path, cure: str = AGAIN) -> None:
        self.folder, self.cure = folder, cure

    def __contains__(self, name: str) -> bool:
        return self.file(name).is_file()

    def file(self, name: str) -> Path:
        """Where the arrays of a name lie; a `SequenceError` for names that lead elsewhere."""
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise SequenceError(f"{name!r} is no key", where=str(self.folder), cure="Give names separated by /")
        *folders, last = (quote(part, safe="+-=@ ") for part in parts)
        return self.folder.joinpath(*folders, f"{last}.safetensors")

    def read(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of a name; errors as of `mapped_arrays`."""
        return mapped_arrays(self.file(name), self.cure)

    def write(self, name: str, arrays: Arrays) -> None:
        """Stores the arrays of a name; an OSError if they cannot be written."""
        file = self.file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, tensor_bytes(arrays))

    def fill(
        self,
        names: Mapping[int, str],  # by numbers that the maker knows
        make: Callable[[Sequence[int]], Iterator[Arrays]],  # the arrays of these numbers, one after the other
        what: str,  # what a file is of, for people
        workers: int = 1,  # processes, if there are enough files for so many
    ) -> list[Path]:
        """The files of names, in order, once those that are missing are made; raises what `make` and `write` raise."""
        files = [self.file(name) for name in names.values()]
        missing = [number for number, file in zip(names, files, strict=True) if not file.exists()]
        workers = max(1, min(workers, len(missing) // _FILES_A_PROCESS))
        with Progress(len(missing), what) as bar:
            if missing and workers == 1:
                self._make(names, make, missing, bar.step)
            elif missing:
                # Neighbours share what is measured: a process takes some in a row.
                parts = min(len(missing) // _FILES_A_PROCESS, _PARTS_A_PROCESS * workers)
                chunks: list[list[int]] = [part.tolist() for part in np.array_split(missing, parts)]
                # Spawned, not forked: a fork inherits the locks of OpenCV's threads and can wait for them forever.
                with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
                    for done in pool.map(partial(self._make, names, make), chunks):
                        for _ in range(done):
                            bar.step()
        return files

    def _make(self, names: Mapping[int, str], make: Any, numbers: Sequence[int], made: Any = lambda: None) -> int:
        """Writes files of some numbers, calls `made` after each; how many."""
        for number, arrays in zip(numbers, make(numbers), strict=True):
            self.write(names[number], arrays)
            made()
        return len(numbers)
