"""Voxels of another recording as what is true: those of an earlier replay, to see what has changed since."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import CLOUD_TYPE, BagReader
from scene_completion_ros.errors import BagError, SceneCompletionError
from scene_completion_ros.messages.transform_buffer import stamp_of
from scene_completion_ros.scoring.published import PublishedGrid
from scene_completion_ros.scoring.sequence_truth import TOLERANCE_NS
from scene_completion_ros.scoring.truth import ALL, FrameTruth, VoxelTruth
from scene_completion_ros.voxels.cloud import cloud_array_from_message

_Cloud = tuple[int, NDArray[np.void]]  # stamp in nanoseconds, points


class RecordedTruth:
    """The voxels of a recording, in the order of its bag time; holds one cloud. Use it as a context manager.

    All voxels of the grid count, also those that nobody sees.

    Args:
        bag: The recording; its first PointCloud2 topic in the layout of published voxels is taken.
        published: Grid that they lie on: that of the node.
        offset_ns: Added to the stamps of the recording.

    Attributes:
        name: Of the recording.
    """

    def __init__(self, bag: Path | str, published: PublishedGrid, *, offset_ns: int = 0) -> None:
        self.name = Path(bag).resolve().name
        self._reader = BagReader(bag)
        self._published = published
        self._offset_ns = offset_ns
        self._clouds: Iterator[_Cloud] = iter(())
        self._next: _Cloud | None = None

    def __enter__(self) -> RecordedTruth:
        self._reader.open()
        try:
            self._clouds = self._read(self._voxel_topic())
            self._next = next(self._clouds, None)
        except BaseException:
            self._reader.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def at(self, stamp_ns: int, frame_id: str) -> FrameTruth | None:
        """Voxels whose stamp is within 5 ms of the image's; later calls should not go back in time."""
        while self._next is not None and self._next[0] < stamp_ns - TOLERANCE_NS:
            self._next = next(self._clouds, None)
        if self._next is None or self._next[0] > stamp_ns + TOLERANCE_NS:
            return None
        grid, pose = self._published.grid, self._published.grid_from_camera
        occupied = self._published.at(self._next[1], grid, pose).occupied
        everywhere = np.ones(grid.shape, dtype=bool)
        return FrameTruth(VoxelTruth(grid, pose, occupied, everywhere, {ALL: everywhere}), None)

    def _voxel_topic(self) -> str:
        for topic in self._reader.topics_of_type(CLOUD_TYPE):
            try:
                cloud_array_from_message(next(iter(self._reader.messages([topic]))).message)
            except SceneCompletionError:  # another layout
                continue
            return topic
        raise BagError(
            "no topic with published voxels",
            where=str(self._reader.path),
            cure="Name the folder bag/ of an earlier replay, or a folder with ground truth",
        )

    def _read(self, topic: str) -> Iterator[_Cloud]:
        for recorded in self._reader.messages([topic]):
            try:
                message = recorded.message
                yield stamp_of(message.header) + self._offset_ns, cloud_array_from_message(message)
            except SceneCompletionError:
                self._reader.skipped[f"{topic}: unusable voxels"] += 1
