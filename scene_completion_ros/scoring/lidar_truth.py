"""Ground truth of a recording's own LiDAR: its points as depth of the camera's pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene_completion_ros.evaluation.lidar import sparse_depth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.report.lidar import LidarOfBag
from scene_completion_ros.scoring.truth import DepthTruth, FrameTruth

_IDENTITY = RigidTransform(np.eye(3), np.zeros(3))


class LidarTruth:
    """The scan nearest to each image, moved into the camera by the recorded transforms. Use it as a context manager.

    Without transforms between the frames of LiDAR and camera there is no ground truth.

    Args:
        bag: The recording.
        camera: Calibration of the images.

    Attributes:
        name: "lidar".
    """

    def __init__(self, bag: Path | str, camera: Camera) -> None:
        self.name = "lidar"
        self._lidar = LidarOfBag(bag)
        self._camera = camera

    def __enter__(self) -> LidarTruth:
        self._lidar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lidar.__exit__()

    @property
    def recorded(self) -> bool:
        """Whether the recording has a LiDAR."""
        return self._lidar.topic is not None

    def at(self, stamp_ns: int, frame_id: str) -> FrameTruth | None:
        """Depth of the LiDAR's points for an image; later calls should not go back in time."""
        points = self._lidar.points_grid(frame_id, stamp_ns, _IDENTITY)
        if points is None or not len(points):
            return None
        return FrameTruth(None, DepthTruth(self._camera, sparse_depth(points, self._camera)))
