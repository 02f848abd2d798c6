"""LiDAR of a recording, brought into the grid's frame at the time of an image, to compare voxels with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import CLOUD_TYPE, BagReader, CloudFrame
from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.transform_buffer import TransformBuffer

_LARGEST_GAP_NS = 200_000_000  # between scan and image, and between two recorded poses


class LidarOfBag:
    """The scan nearest in time to each image of a recording; holds two scans at a time.

    Has a reader of its own, so that scans can be read alongside the images. Use it as a context manager. `path`: the
    recording; of its PointCloud2 topics the one with the most messages is taken, of the robot of the `image_topic`.
    """

    def __init__(self, path: str | Path, image_topic: str = "") -> None:
        self._reader, self._image_topic = BagReader(path), image_topic
        self.warnings = self._reader.warnings  # what is doubtful about the transforms that were needed
        self.topic: str | None = None  # the topic with the most messages, if there is one
        self._scans: Iterator[CloudFrame] = iter(())
        self._transforms = TransformBuffer()
        self._before: CloudFrame | None = None
        self._after: CloudFrame | None = None

    def __enter__(self) -> "LidarOfBag":
        self._reader.open()
        counts = self._reader.counts
        topics = self._reader.of_robot(self._reader.topics_of_type(CLOUD_TYPE), self._image_topic)
        self.topic = max(topics, key=lambda topic: counts[topic], default=None)
        if self.topic is not None:
            self._transforms = self._reader.tf_buffer(image_topic=self._image_topic)
            self._scans = self._reader.point_clouds(self.topic)
            self._after = next(self._scans, None)
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def points_grid(
        self, camera_frame: str, stamp_ns: int, grid_from_camera: RigidTransform
    ) -> NDArray[np.float32] | None:
        """The scan nearest to an image, moved to where the car was when the image was taken.

        Returns points in the grid frame, metres, float32 [N, 3]; none without a scan and transforms near that time.
        `stamp_ns`: its time in nanoseconds; later calls should not go back in time; `grid_from_camera`: pose of the
        camera in the grid.
        """
        scan = self.nearest_scan(stamp_ns)
        if scan is None:
            return None
        try:
            camera_from_lidar = self._camera_from_lidar(camera_frame, stamp_ns, scan)
        except BagError:
            return None
        return np.asarray((grid_from_camera @ camera_from_lidar).apply(scan.xyz), dtype=np.float32)

    def nearest_scan(self, stamp_ns: int) -> CloudFrame | None:
        """The scan nearest to a time, within 0.2 s; later calls should not go back in time."""
        while self._after is not None and self._after.stamp_ns < stamp_ns:
            self._before, self._after = self._after, next(self._scans, None)
        known = [scan for scan in (self._before, self._after) if scan is not None]
        nearest = min(known, key=lambda scan: abs(scan.stamp_ns - stamp_ns), default=None)
        return None if nearest is None or abs(nearest.stamp_ns - stamp_ns) > _LARGEST_GAP_NS else nearest

    def _camera_from_lidar(self, camera_frame: str, stamp_ns: int, scan: CloudFrame) -> RigidTransform:
        """Through the fixed frame, which takes the car's motion between scan and image out; else the mounting alone."""
        find = self._transforms.lookup
        try:
            world = self._transforms.root_of(camera_frame)
            world_from_camera = find(world, camera_frame, stamp_ns, _LARGEST_GAP_NS)
            return world_from_camera.inverse() @ find(world, scan.frame_id, scan.stamp_ns, _LARGEST_GAP_NS)
        except BagError:
            return find(camera_frame, scan.frame_id, stamp_ns, _LARGEST_GAP_NS)
