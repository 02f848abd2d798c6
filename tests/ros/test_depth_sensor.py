"""A depth sensor next to the camera of the running node: what it adds, and what can be wrong with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.duration import Duration
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from scene_completion_ros.ros import messages
from scene_completion_ros.ros.conversions import image_message, points_message
from tests.inference.known_mounting_bundle import make_known_mounting_bundle
from tests.ros.camera_to_voxels import CAMERA, FRAME, OK, WARN, CameraToVoxels, some_image
from tests.ros.graph import PATIENCE_S

Start = Callable[..., Any]
# An image waits for its depth as long as it may: a busy machine may be late by seconds.
SENSED = ("-p", "depth.topic:=sensed", "-p", "sync.timeout:=10.0")
FARTHER = 1.5


class Sensing(CameraToVoxels):
    """One picture again and again, of which a sensor says that all is farther than the network believes."""

    def listen(self) -> None:
        super().listen()
        self.depths = self.graph.collect(Image, f"{self.output}/depth/image")

    def sense_by(self, message_type: Any) -> None:
        """From now on the sensor publishes this; the node has found it, and loses nothing of it."""
        self.sensor = self.graph.node.create_publisher(message_type, "sensed", 10)

        def subscribed() -> list[Any]:
            found = self.graph.node.get_subscriptions_info_by_topic(self.sensor.topic_name)
            return [info.qos_profile.reliability for info in found]

        assert self.graph.until(lambda: subscribed() == [ReliabilityPolicy.RELIABLE]), self.node.log
        assert self.graph.until(lambda: self.sensor.get_subscription_count() == 1), self.node.log

    def shown(self, *sensed: Any, late_ns: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The depth that the node publishes of the next image; `sensed`: sent before, stamped `late_ns` after it."""
        self.stamp()
        for message in sensed:
            message.header.stamp = messages.stamp_message(self.now_ns + late_ns)
            self.sensor.publish(message)
            assert self.sensor.wait_for_all_acked(Duration(seconds=PATIENCE_S))
        image = messages.image_message(some_image(1), self.now_ns, FRAME)
        self.answer(image)
        found = self.stamped(self.depths, self.now_ns)
        return np.frombuffer(found.data, np.float32).reshape(found.height, found.width)

    def wall(self, z: float, frame: str = FRAME, unit: float = 1000.0) -> Any:
        """What a depth camera sees of a wall, in a picture half as large as that of the camera."""
        header = messages.depth_message(np.ones((1, 1), np.float32), 0, frame).header
        return image_message(np.full((CAMERA.height // 2, CAMERA.width // 2), z * unit, np.uint16), "16UC1", header)


@pytest.fixture
def running(start: Start, tmp_path: Path) -> Callable[..., Sensing]:
    student = make_known_mounting_bundle(tmp_path / "takes_evidence").folder

    def begin(*given: str) -> Sensing:
        sensing: Sensing = start(*SENSED, *given, kind=Sensing, bundle=student)
        sensing.start()
        return sensing

    return begin


def test_a_depth_camera_corrects_the_network_and_its_faults_cost_no_image(running: Callable[..., Sensing]) -> None:
    robot = running()
    wrong = robot.graph.node.create_publisher(CompressedImage, "sensed", 10)
    robot.until_logged("it is of type sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image or")
    robot.graph.node.destroy_publisher(wrong)
    alone = robot.shown()
    z = FARTHER * float(np.median(alone[np.isfinite(alone)]))
    robot.sense_by(Image)

    corrected = robot.shown(robot.wall(z))
    assert np.median(corrected[np.isfinite(corrected)]) == pytest.approx(z, rel=0.1)
    robot.diagnosed.until("depth", OK, "of the pixels", "0.0 ms old")
    assert float(robot.diagnosed.fresh("depth")["pixels sensed"].split()[0]) > 20.0  # a quarter: it is half as fine

    def left_out(why: str, *sensed: Any, late_ns: int = 0) -> None:
        np.testing.assert_array_equal(robot.shown(*sensed, late_ns=late_ns), alone)
        assert robot.graph.until(lambda: why in robot.diagnosed.fresh("depth")["last without"]), robot.node.log

    left_out("depth images of frame 'elsewhere' do not fit images of frame", robot.wall(z, "elsewhere"))
    left_out("none within 0.020 s", robot.wall(z), late_ns=30_000_000)
    with robot.impatient():
        left_out("none within 0.020 s")  # it has stopped: the image waits no longer than `sync.timeout`
    # It is back: images do not wait until that was heard.
    assert robot.graph.until(lambda: np.array_equal(robot.shown(robot.wall(z)), corrected, equal_nan=True))
    np.testing.assert_array_equal(robot.shown(robot.wall(z), late_ns=15_000_000), corrected)
    robot.node.end_well()


def test_a_lidar_is_placed_by_the_source_of_transforms(running: Callable[..., Sensing], tmp_path: Path) -> None:
    """The LiDAR looks along x, 0.5 m behind the camera: what is `z` before the camera is z + 0.5 before it."""
    mounts = tmp_path / "mounts.yaml"
    mounts.write_text(
        f"- {{parent: lidar, child: {FRAME}, translation: [0.5, 0, 0], rotation: [-0.5, 0.5, -0.5, 0.5]}}\n"
    )
    robot = running("-p", f"extrinsics_file:={mounts}", "-p", "transform.source:=parameters")
    alone = robot.shown()
    z = FARTHER * float(np.median(alone[np.isfinite(alone)]))
    robot.sense_by(PointCloud2)
    across, up = np.meshgrid(np.linspace(-0.8, 0.8, 120), np.linspace(-0.25, 0.25, 30))
    points = np.stack([np.full_like(across, z + 0.5), z * across, z * up], axis=-1).reshape(-1, 3)

    def cloud(frame: str) -> Any:
        return points_message(points.astype(np.float32), robot.wall(1.0, frame).header)

    corrected = robot.shown(cloud("lidar"))
    assert np.median(corrected[np.isfinite(corrected)]) == pytest.approx(z, rel=0.1)
    np.testing.assert_array_equal(robot.shown(cloud("nowhere")), alone)
    robot.diagnosed.until("depth", OK)
    assert "nowhere" in robot.diagnosed.fresh("depth")["last without"]
    robot.node.end_well()


def test_a_student_that_takes_no_depth_is_warned_of_once(start: Start) -> None:
    robot: Sensing = start(*SENSED, kind=Sensing)
    robot.start()
    robot.shown()
    robot.shown()
    robot.diagnosed.until("depth", WARN, "makes nothing of what sensors of depth see")
    assert robot.node.log.count("depth.topic is set, but student") == 1
