"""A robot that says where it is, over topics or over tf2, images of its camera, and what joining them is to give."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, Extrinsic, RigidTransform, rotation_of_angles
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.mapping.temporal_fusion import FusedFrame, FusionSettings, TemporalFusion
from scene_completion_ros.ros.messages import odometry_message
from scene_completion_ros.ros.placements import transform_message
from scene_completion_ros.ros.topics import NODE_NAME
from tests.ros.camera_to_voxels import CAMERA, FRAME, PATIENT_S, SECOND_NS, CameraToVoxels, some_image, values
from tests.ros.graph import Graph, NodeUnderTest

ODOM, BASE = "odom", "base_link"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MOUNT = RigidTransform(rotation_of_angles(0.0, 0.05, 0.02), np.array([0.3, -0.1, 0.4])) @ OPTICAL_FROM_FORWARD.inverse()
TF2 = importlib.util.find_spec("tf2_ros") is not None and importlib.util.find_spec("tf2_msgs") is not None
BY_TOPICS = ("-p", "transform.source:=topics") if TF2 else ()  # without tf2, `auto` takes the topics that are named
ARGUMENTS = {
    "topics": (*BY_TOPICS, "-p", "transform.topics:=mounts", "-p", "odometry.topics:=odometry"),
    "tf2": (),  # which `auto` takes
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
            self._fixed = node.create_publisher(TransformStamped, "mounts", LATCHED)

    @property
    def publishers(self) -> tuple[Any, Any]:
        """Of where the base is, and of how the camera is mounted."""
        return self._moving, self._fixed

    def say_mount(self) -> None:
        """Publish how the camera is mounted, once and latched."""
        message = transform_message(Extrinsic(BASE, FRAME, MOUNT))
        self._fixed.publish(self._tf_message(transforms=[message]) if self._kind == "tf2" else message)

    def say_pose(self, stamp_ns: int, odom_from_base: RigidTransform) -> None:
        """Publish where the base is."""
        if self._kind == "tf2":
            stamped = transform_message(Extrinsic(ODOM, BASE, odom_from_base), stamp_ns)
            self._moving.publish(self._tf_message(transforms=[stamped]))
        else:
            self._moving.publish(odometry_message(odom_from_base, stamp_ns, ODOM, BASE))


TENTH_NS = SECOND_NS // 10
TOPICS = ("-p", "fusion.enabled:=true", *ARGUMENTS["topics"], "-p", "image.qos:=reliable")
SETTINGS = FusionSettings(seen_for=0.0)


class FusingDrive(CameraToVoxels):
    """A node with a camera that is mounted on a robot, whose odometry it hears."""

    def __init__(self, start: Callable[[Graph], NodeUnderTest]) -> None:
        super().__init__(start)
        self.robot = MovingRobot(self.graph, "topics")
        self.states = self.graph.collect(Image, f"{self.output}/voxel_grid")
        self.clearing = self.graph.collect(PointCloud2, f"{self.output}/clearing")
        self.depths = self.graph.collect(Image, f"{self.output}/depth/image")
        self.now_ns = 100 * SECOND_NS

    def begin(self) -> None:
        """Until all of it is heard, in both directions."""
        self.robot.say_mount()
        self.start(CAMERA)

        def joined() -> bool:
            self.show(0, 0.0)
            return self.joined > 0 and all((self.states, self.clearing, self.depths))

        assert self.graph.until(joined), self.node.log
        self.wait_for(PATIENT_S)

    def hears_all(self) -> bool:
        """Whether the node has found the publishers of transforms, and is about to lose nothing of them."""
        for publisher in self.robot.publishers:
            found = [
                info
                for info in self.graph.node.get_subscriptions_info_by_topic(publisher.topic_name)
                if info.node_name == NODE_NAME
            ]
            if not found or any(info.qos_profile.reliability != ReliabilityPolicy.RELIABLE for info in found):
                return False
        return True

    def numbers(self) -> dict[str, str]:
        """What the diagnostics say of the map."""
        status = self.diagnosed.newest.get("fusion")
        return {} if status is None else values(status)

    @property
    def joined(self) -> int:
        return int(self.numbers().get("images joined", "0"))

    def show(self, seed: int, x: float, yaw: float = 0.0, *, posed: bool = True, later_ns: int = TENTH_NS) -> Any:
        """Take an image somewhere, a tenth of a second after the last one; what the node makes of it."""
        self.now_ns += later_ns
        if posed:
            self.robot.say_pose(self.now_ns, pose(x, yaw))
        return self.answer(self.image(seed, self.now_ns))


class FusedTruth:
    """What the model and the map say of images that were taken somewhere."""

    def __init__(self, completer: Completer) -> None:
        self._completer = completer
        self.grid, self.grid_from_camera = completer.grid, completer.grid_from_camera

    def alone(self, seed: int, stamp_ns: int = 0) -> Completion:
        """One image by itself."""
        completion = self._completer.complete(some_image(seed), stamp_ns)
        assert len(completion.voxels) > 50  # or a comparison shows nothing
        return completion

    def map(self, settings: FusionSettings = SETTINGS) -> TemporalFusion:
        """An empty one."""
        thresholds = self._completer.bundle.thresholds
        return TemporalFusion(self.grid, self.grid_from_camera, thresholds, settings, threads=1)

    def joined(self, fusion: TemporalFusion, seed: int, stamp_ns: int, x: float, yaw: float = 0.0) -> FusedFrame:
        """An image joined with a map."""
        completion = self.alone(seed, stamp_ns)
        odometry_from_grid = pose(x, yaw) @ MOUNT @ self.grid_from_camera.inverse()
        return fusion.fuse(completion.voxels, completion.probability, odometry_from_grid)
