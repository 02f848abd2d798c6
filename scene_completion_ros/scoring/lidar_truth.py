"""Ground truth of a recording's own LiDAR: its points as depth of the camera's pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.lidar import sparse_depth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform, TransformError
from scene_completion_ros.report.lidar import LidarOfBag
from scene_completion_ros.scoring.truth import DepthTruth, FrameTruth

_IDENTITY = RigidTransform(np.eye(3), np.zeros(3))


class LidarTruth:
    """The scan nearest to each image, moved into the camera by the recorded transforms. Use it as a context manager.

    Without transforms between the frames of LiDAR and camera, recorded or given, there is no ground truth.

    Args:
        bag: The recording.
        camera: Calibration of the images.
        camera_from_lidar: Pose of the LiDAR in the camera's optical frame, instead of the recorded transforms. What the
            car moved between scan and image is then left in.

    Attributes:
        name: "lidar".
    """

    def __init__(self, bag: Path | str, camera: Camera, camera_from_lidar: RigidTransform | None = None) -> None:
        self.name = "lidar"
        self._lidar = LidarOfBag(bag)
        self._camera = camera
        self._camera_from_lidar = camera_from_lidar

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
        points = self._points_camera(stamp_ns, frame_id)
        if points is None or not len(points):
            return None
        return FrameTruth(None, DepthTruth(self._camera, sparse_depth(points, self._camera)))

    def _points_camera(self, stamp_ns: int, frame_id: str) -> NDArray[np.float32] | None:
        if self._camera_from_lidar is None:
            return self._lidar.points_grid(frame_id, stamp_ns, _IDENTITY)
        scan = self._lidar.nearest_scan(stamp_ns)
        return None if scan is None else np.asarray(self._camera_from_lidar.apply(scan.xyz), dtype=np.float32)


def read_camera_from_lidar(path: Path) -> RigidTransform:
    """Read the pose of a LiDAR in a camera's optical frame from YAML: `camera_from_lidar`, 16 numbers row by row.

    Raises:
        SequenceError: The file is missing, is no such YAML, or holds no rigid transform.
    """
    cure = "Write camera_from_lidar: with the 16 numbers of the matrix, row by row"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        given = document["camera_from_lidar"] if isinstance(document, Mapping) else None
        matrix = np.asarray(given, dtype=np.float64).reshape(4, 4)
        return RigidTransform.from_matrix(matrix)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, TransformError) as error:
        raise SequenceError(f"holds no camera_from_lidar: {error}", where=str(path), cure=cure) from error
