"""The transforms of messages: those recorded on /tf, /tf_static and in odometry, and those of live topics."""

from collections import Counter
from typing import Any

import numpy as np

from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.transform_tree import NoTransformError, TransformTree
from scene_completion_ros.geometry.transforms import RigidTransform, TransformError

MAX_NORM_ERROR = 0.05  # of a quaternion: rounding is normalised away, anything else is a defect


class TransformBuffer(TransformTree):
    """Transforms between frames, from messages of rosbags and rclpy; `keep_ns`: see `TransformTree`."""

    def __init__(self, keep_ns: int | None = None) -> None:
        super().__init__(keep_ns)
        # Transforms that were not taken, by reason (NaN, broken quaternion, a frame that is its own parent).
        self.rejected: Counter[str] = Counter()

    def add(self, parent: str, child: str, stamp_ns: int, parent_from_child: RigidTransform, *, static: bool) -> None:
        """Add one transform, see `TransformTree.add`; an unusable one is counted in `rejected`."""
        try:
            super().add(parent, child, stamp_ns, parent_from_child, static=static)
        except TransformError as error:
            self.rejected[str(error)] += 1

    def add_message(self, message: Any, *, static: bool) -> None:
        """Add all transforms of a `tf2_msgs/TFMessage`; unusable ones are counted in `rejected`."""
        for stamped in message.transforms:
            self.add_stamped(stamped, static=static)

    def add_stamped(self, stamped: Any, *, static: bool) -> None:
        """Add a `geometry_msgs/TransformStamped`; an unusable one is counted in `rejected`."""
        self._add_pose(stamped, stamped.transform.translation, stamped.transform.rotation, static=static)

    def add_odometry(self, message: Any) -> None:
        """Add the pose of a `nav_msgs/Odometry` as header.frame_id -> child_frame_id."""
        self._add_pose(message, message.pose.pose.position, message.pose.pose.orientation, " (odometry)", static=False)

    def lookup(self, target: str, source: str, stamp_ns: int, max_gap_ns: int = 200_000_000) -> RigidTransform:
        """Find target_from_source at a time of a recording.

        Raises BagError where the frames are not connected, or there is no transform close enough: names the pair.
        `stamp_ns`: time; transforms are interpolated (slerp and lerp), never extrapolated; `max_gap_ns`: largest
        distance of the two transforms between which is interpolated.
        """
        try:
            return self.find(target, source, stamp_ns, max_gap_ns=max_gap_ns)
        except NoTransformError as error:
            cure = f"{error.cure}. Record them for the whole drive"
            raise BagError(error.what, where=error.where or "/tf, /tf_static", cure=cure) from None

    def _add_pose(self, message: Any, translation: Any, rotation: Any, source: str = "", *, static: bool) -> None:
        parent, child = message.header.frame_id, message.child_frame_id
        name = f"{parent} -> {child}{source}"
        position = np.array([translation.x, translation.y, translation.z], dtype=np.float64)
        quaternion = np.array([rotation.x, rotation.y, rotation.z, rotation.w], dtype=np.float64)
        if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
            self.rejected[f"{name}: not finite"] += 1
            return
        norm = float(np.linalg.norm(quaternion))
        if abs(norm - 1.0) > MAX_NORM_ERROR:
            self.rejected[f"{name}: quaternion is not of unit length"] += 1
            return
        transform = RigidTransform.from_quaternion(quaternion / norm, position)
        self.add(parent, child, stamp_of(message.header), transform, static=static)


def stamp_of(header: Any) -> int:
    """Stamp of a `std_msgs/Header` in nanoseconds (rosbags and rclpy messages)."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
