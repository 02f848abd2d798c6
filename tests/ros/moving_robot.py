"""A robot that says where it is, over topics or over tf2."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile

from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, rotation_of_angles
from scene_completion_ros.ros.messages import odometry_message, stamp_message
from tests.ros.camera_to_voxels import FRAME, SECOND_NS
from tests.ros.graph import Graph

ODOM, BASE = "odom", "base_link"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MOUNT = RigidTransform(rotation_of_angles(0.0, 0.05, 0.02), np.array([0.3, -0.1, 0.4])) @ OPTICAL_FROM_FORWARD.inverse()
TF2 = importlib.util.find_spec("tf2_ros") is not None and importlib.util.find_spec("tf2_msgs") is not None
ARGUMENTS = {
    "topics": ("-p", "odometry.topics:=odometry, mount_odometry"),
    "tf2": (),
}
SOURCES = ["topics", pytest.param("tf2", marks=pytest.mark.skipif(not TF2, reason="tf2_ros is not installed"))]


def pose(x: float, yaw: float = 0.0) -> RigidTransform:
    """Pose of the base in the odometry frame: metres forward, radians to the left."""
    return RigidTransform(rotation_of_angles(0.0, 0.0, yaw), np.array([x, 0.0, 0.0]))


class MovingRobot:
    """Publishes where its base is, and how its camera is mounted, for one kind of source.

    Args:
        graph: Where to publish.
        kind: "topics" or "tf2".
    """

    def __init__(self, graph: Graph, kind: str) -> None:
        self._kind = kind
        node = graph.node
        if kind == "tf2":
            from tf2_msgs.msg import TFMessage

            self._tf_message: Any = TFMessage
            self._moving = node.create_publisher(TFMessage, "/tf", 100)
            self._fixed = node.create_publisher(TFMessage, "/tf_static", LATCHED)
        else:
            self._moving = node.create_publisher(Odometry, "odometry", 100)
            self._fixed = node.create_publisher(Odometry, "mount_odometry", 100)

    @property
    def publishers(self) -> tuple[Any, Any]:
        """Of where the base is, and of how the camera is mounted."""
        return self._moving, self._fixed

    def say_mount(self) -> None:
        """Publish on tf how the camera is mounted, once and latched; topics say it with each pose."""
        if self._kind == "tf2":
            self._fixed.publish(self._tf_message(transforms=[transform_message(BASE, FRAME, MOUNT)]))

    def say_pose(self, stamp_ns: int, odom_from_base: RigidTransform) -> None:
        """Publish where the base is."""
        if self._kind == "tf2":
            stamped = transform_message(ODOM, BASE, odom_from_base, stamp_ns)
            self._moving.publish(self._tf_message(transforms=[stamped]))
        else:
            self._fixed.publish(odometry_message(MOUNT, stamp_ns, BASE, FRAME))
            self._moving.publish(odometry_message(odom_from_base, stamp_ns, ODOM, BASE))


def transform_message(parent: str, child: str, parent_from_child: RigidTransform, stamp_ns: int = 0) -> Any:
    """A geometry_msgs/TransformStamped."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp_message(stamp_ns)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = parent_from_child.translation.tolist()
    rotation.x, rotation.y, rotation.z, rotation.w = parent_from_child.quaternion.tolist()
    return message


TENTH_NS = SECOND_NS // 10
