"""Results wait in a temporary file, so that drawing them takes no time from a recording that plays in real time."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import BagMessage
from scene_completion_ros.ros.replay.results import ReplayResult


class DeferredResults:
    """Results of unlimited number in the memory of a few: images and arrays go to the disk."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this)
        self._waiting: list[tuple[ReplayResult, BagMessage]] = []

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def put(self, result: ReplayResult, source: BagMessage) -> None:
        """Keep a result and the recorded image that it is of.

        Raises OSError where the temporary file cannot be written, e.g. on a full disk.
        """
        for array in (np.frombuffer(source.raw, np.uint8), result.voxels, result.depth, result.matches):
            if array is not None:
                np.lib.format.write_array(self._file, array, allow_pickle=False)
        matches = None if result.matches is None else result.matches[:0]
        kept = replace(result, image_message=None, voxels=result.voxels[:0], depth=result.depth[:0], matches=matches)
        self._waiting.append((kept, replace(source, raw=b"")))

    def take_all(self) -> Iterator[ReplayResult]:
        """Yield what was kept, in the order in which it came, and forget it."""
        waiting, self._waiting = self._waiting, []
        self._file.seek(0)
        for result, source in waiting:
            raw, voxels, depth = (self._read() for _ in range(3))
            yield replace(
                result,
                image_message=replace(source, raw=raw.tobytes()).message,
                voxels=voxels,
                depth=depth,
                matches=None if result.matches is None else self._read(),
            )
        self._file.seek(0)

    def _read(self) -> NDArray[Any]:
        array: NDArray[Any] = np.lib.format.read_array(self._file, allow_pickle=False)
        return array
