"""A camera, the running node that completes its images, and the voxels that come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros import messages, topics
from tests.ros.graph import Graph, NodeUnderTest

CAMERA = Camera(185.6, 185.6, 159.5, 44.75, 320, 96)  # half the student's canonical camera
FRAME = "front_optical"
SECOND_NS = 1_000_000_000


def some_image(seed: int, camera: Camera = CAMERA) -> NDArray[np.uint8]:
    rough = np.random.default_rng(seed).integers(0, 255, (12, 40, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(rough, (camera.width, camera.height)), np.uint8)


class CameraToVoxels:
    """A running node, and the topics around it."""

    def __init__(
        self,
        start: Callable[[Graph], NodeUnderTest],
        transport: str = "raw",
        camera_info_qos: Any = 10,
        *,
        listen: bool = True,
    ) -> None:
        self.graph = Graph()
        self.node = start(self.graph)
        self.output = f"{self.graph.namespace}/{topics.NODE_NAME}"
        compressed = transport == "compressed"
        image_type, topic = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self.make_image = messages.compressed_image_message if compressed else messages.image_message
        self.images = self.graph.node.create_publisher(image_type, topic, 50)
        self.camera_infos = self.graph.node.create_publisher(CameraInfo, "camera_info", camera_info_qos)
        self.voxels: list[Any] = []
        if listen:
            self.listen()

    def listen(self) -> None:
        """Subscribe to the voxels."""
        self.voxels = self.graph.collect(PointCloud2, f"{self.output}/voxels")

    def until_logged(self, text: str, publish: Callable[[], None] = lambda: None) -> None:
        """Wait until the node logs something; publish again and again, for a reader misses what comes early."""

        def logged() -> bool:
            publish()
            return self.graph.until(lambda: text in self.node.log, 0.5)

        assert self.graph.until(logged), self.node.log

    def send_camera(self, message: Any, logged: str) -> None:
        self.until_logged(logged, lambda: self.camera_infos.publish(message))

    def start(self, camera: Camera) -> None:
        """Make sure that messages arrive in both directions."""
        image = self.make_image(some_image(0, camera), 0, FRAME)
        self.until_logged("no CameraInfo", lambda: self.images.publish(image))
        self.send_camera(messages.camera_info_message(camera, 0, FRAME), f"ready for {camera.width}x{camera.height}")

        def answered() -> bool:
            self.images.publish(image)
            return self.graph.until(lambda: bool(self.voxels), 0.5)

        assert self.graph.until(answered), self.node.log
        self.graph.spin(0.5)

    def answer(self, message: Any) -> Any:
        """Send an image and wait for its voxels; answers to earlier images may still come before."""
        heard = len(self.voxels)

        def answers() -> list[Any]:
            return [voxels for voxels in self.voxels[heard:] if voxels.header.stamp == message.header.stamp]

        self.images.publish(message)
        assert self.graph.until(lambda: bool(answers())), self.node.log
        return answers()[0]

    def close(self) -> None:
        self.graph.close()
        self.node.close()
