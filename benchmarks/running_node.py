"""The node in a process of its own, a camera before it and a reader behind it, for measurements of the whole.

The camera publishes one picture again and again, with the time of a steady clock as stamp. What the node says of itself
(processing times, diagnostics) and what the system says of its process is collected.
"""

from __future__ import annotations

import os
import signal
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Float64

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.ros.health.memory_health import ProcessFacts, process_facts
from scene_completion_ros.ros.replay.played_node import NodeProcess

if TYPE_CHECKING:
    from typing_extensions import Self

FRAME = "camera_optical"
PATIENCE_S = 600.0  # kernels may have to be compiled first, on a busy machine
QUIET_S = 1.0
UNWANTED = "nobody subscribed"
NO_IMAGES = DropReason.BAD_TRANSFORM, DropReason.BAD_CAMERA_INFO  # dropped messages that are no images
HELD_S = 1.0
SETTLE_S = 60.0
SENT_QUEUE = 100  # images that are sent again where they were lost
KEPT_RESULTS = 200_000  # about ten hours at 6 Hz


class RunningNode:
    """A completion node that gets images of one camera and whose voxels are read.

    Args:
        picture: What it sees, uint8 RGB [H, W, 3].
        reliable: Publish images so that none is lost; the parameter `image_qos` has to be `reliable`, too.

    Attributes:
        node: The rclpy node of this process.
        image: The message that `send` stamps and publishes.
        statuses: The newest status of each part of the node, by its name.
        clouds: Stamp of each result and when it was read, seconds of `time.monotonic`.
        times_ms: Processing times of each result, by stage.
    """

    def __init__(
        self,
        camera: Camera,
        picture: NDArray[np.uint8],
        *,
        compressed: bool,
        parameters: Mapping[str, object],
        reliable: bool = False,
    ) -> None:
        transport = "compressed" if compressed else "raw"
        self._process = NodeProcess(f"/measured_{os.getpid()}", {**parameters, "image_transport": transport})
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        namespace = self._process.namespace
        node = rclpy.create_node("measurement", namespace=namespace, context=self._context)
        self.node = node
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        make = messages.compressed_image_message if compressed else messages.image_message
        self._camera, self.image = camera, make(picture, 0, FRAME)
        self._compressed, self._reliable = compressed, reliable
        self.make_image_publisher()
        self._infos = node.create_publisher(CameraInfo, topics.CAMERA_INFO, qos_profile_sensor_data)
        self.sent = 0
        self.clouds: deque[tuple[float, float]] = deque(maxlen=KEPT_RESULTS)
        self.times_ms = {stage: array("d") for stage in topics.STAGES}
        self.statuses: dict[str, DiagnosticStatus] = {}
        own = f"{namespace}/{topics.NODE_NAME}"
        self.make_reader()
        for stage in topics.STAGES:
            topic = topics.stage_topic(stage).replace("~", own)
            node.create_subscription(Float64, topic, lambda message, s=stage: self.times_ms[s].append(message.data), 50)
        self._prefix = f"{own.lstrip('/')}: "
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, 10)

    def make_image_publisher(self) -> None:
        """Begin to offer images."""
        kind, topic = (CompressedImage, "image/compressed") if self._compressed else (Image, "image")
        qos = QoSProfile(depth=SENT_QUEUE) if self._reliable else qos_profile_sensor_data
        self._images = self.node.create_publisher(kind, topic, qos)

    def make_reader(self) -> None:
        """Begin to read voxels."""
        # Raw: a reader in C++ would not copy the points either.
        topic = topics.VOXELS.replace("~", self._process.full_name)
        self.reader = self.node.create_subscription(PointCloud2, topic, self._on_cloud, 10, raw=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()
        self._process.__exit__()

    def start(self) -> None:
        """Wait until images are completed; what was measured until then is forgotten.

        Raises:
            SceneCompletionError: They are not, for too long, or the node has ended.
        """
        next_s = 0.0

        def answered() -> bool:
            nonlocal next_s
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + 0.5
                self.send_camera_info()
                self.send()
            return len(self.clouds) >= 3 and all(self.times_ms.values())

        if not self.until(answered, PATIENCE_S):
            raise SceneCompletionError("no voxels came", where="scene_completion_node", cure=self._process.log())
        self.settle()
        self.forget()

    def forget(self) -> None:
        """Forget what was measured so far; the node must have nothing in hand (`settle`)."""
        self.clouds.clear()
        self.sent = 0
        for times in self.times_ms.values():
            del times[:]

    def fill_queues(self, rate_hz: float) -> None:
        """Hold the node's process while images come, so that its queue of images fills to the brim.

        The middleware gets memory for a message of the queue when it holds so many for the first time, and keeps it.
        """
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            self.run(rate_hz, HELD_S)
        finally:
            os.kill(self._process.pid, signal.SIGCONT)
        self.settle()
        self.forget()

    def settle(self) -> None:
        """Send nothing until nothing comes any more and diagnostics tell of every image, or never will."""
        deadline_s = time.monotonic() + SETTLE_S
        counts = None
        while True:
            heard = len(self.clouds)
            self.spin(QUIET_S)
            self.statuses.clear()
            if not self.until(lambda: {"input", "inference"} <= self.statuses.keys(), PATIENCE_S):
                raise SceneCompletionError("no diagnostics came", cure=self._process.log())
            former, counts = counts, self.counts()
            received, completed, dropped = counts
            at_rest = heard == len(self.clouds) and received == completed + sum(dropped.values())
            # A node that was held may not have begun yet with what waits for it: twice the same.
            if (at_rest and counts == former) or time.monotonic() > deadline_s:
                return

    def send(self) -> None:
        """Publish an image with the time of now."""
        self.image.header.stamp = messages.stamp_message(time.monotonic_ns())
        self._images.publish(self.image)
        self.sent += 1

    def send_camera_info(self) -> None:
        """Publish the calibration."""
        self._infos.publish(messages.camera_info_message(self._camera, time.monotonic_ns(), FRAME))

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Listen until a condition holds; whether it does."""
        deadline_s = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline_s:
            self._executor.spin_once(timeout_sec=0.05)
            self._process.check()
            self.turn()
        return condition()

    def turn(self) -> None:
        """Called again and again while `until` listens."""

    def spin(self, seconds: float) -> None:
        """Listen for some time."""
        self.until(lambda: False, seconds)

    def run(self, rate_hz: float, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """Publish images at a rate, and a calibration with every tenth.

        Args:
            rate_hz: Images a second; what this process cannot keep up with is left out, not made up for.
            each: Called about ten times a second.
        """
        start_s = next_s = time.monotonic()
        next_call_s, number = start_s, 0
        while (now_s := time.monotonic()) < start_s + seconds:
            if now_s >= next_s:
                if number % 10 == 0:
                    self.send_camera_info()
                self.send()
                number += 1
                next_s = max(next_s + 1.0 / rate_hz, now_s)
            if now_s >= next_call_s:
                next_call_s = now_s + 0.1
                self._process.check()
                each()
            self._executor.spin_once(timeout_sec=max(0.0, next_s - time.monotonic()))

    @property
    def process_folder(self) -> Path:
        """What the system says of the node's process."""
        return Path(f"/proc/{self._process.pid}")

    def facts(self) -> ProcessFacts:
        """Memory, threads and open files of the node's process."""
        return process_facts(self.process_folder)

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Images received and completed since the node started, and those dropped by reason, by its diagnostics.

        Images that nobody subscribed to have a reason of their own.
        """
        arrived, inference = self.values("input"), self.values("inference")
        marked = "dropped: "
        dropped = {name.removeprefix(marked): int(n) for name, n in arrived.items() if name.startswith(marked)}
        for reason in NO_IMAGES:
            dropped.pop(reason, None)
        if unwanted := int(inference["images that nobody subscribed to"]):
            dropped[UNWANTED] = unwanted
        return int(arrived["images received"]), int(inference["images completed"]), dropped

    def values(self, part: str) -> dict[str, str]:
        """The numbers of a part in its newest status; none before the first."""
        status = self.statuses.get(part)
        return {} if status is None else {pair.key: pair.value for pair in status.values}

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service of the node; its response.

        Raises:
            SceneCompletionError: It does not answer, for too long, or the node has ended.
        """
        client = self.node.create_client(service_type, f"{self._process.full_name}/{name}")
        answer = None
        if self.until(client.service_is_ready, PATIENCE_S):
            answer = client.call_async(request)
            self.until(answer.done, PATIENCE_S)
        if answer is None or not answer.done():
            raise SceneCompletionError("does not answer", where=name, cure=self._process.log())
        self.node.destroy_client(client)
        return answer.result()

    def _on_cloud(self, serialised: bytes) -> None:
        # Four bytes of encapsulation, then the stamp of the header.
        seconds, nanoseconds = np.frombuffer(serialised[4:12], "<i4, <u4")[0]
        self.clouds.append((int(seconds) + 1e-9 * int(nanoseconds), time.monotonic()))

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name.startswith(self._prefix):
                self.statuses[status.name.removeprefix(self._prefix)] = status
