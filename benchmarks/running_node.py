"""The node in a process of its own, a camera before it and a reader behind it, for measurements of the whole.

The camera publishes pictures with the time of a steady clock as stamp. Collected is what the node reports: processing
times and diagnostics.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.ros import dds, messages, topics
from scene_completion_ros.ros.replay.played_node import NodeProcess

FRAME = "camera_optical"
DOMAIN = "90"  # none of the tests, which may run meanwhile
PATIENCE_S = 600.0  # kernels may have to be compiled first, on a busy machine
LONGEST_WAIT_S = 0.05
NO_IMAGES = DropReason.BAD_TRANSFORM, DropReason.BAD_CAMERA_INFO  # dropped messages that are no images


class RunningNode:
    """A completion node that gets images of one camera and whose voxels are read.

    Attributes:
        image: The message that was published last; `sent` counts them.
        clouds: Stamp of each result and when it was read, seconds of `time.monotonic`.
        times_ms: Processing times of each result, by stage.
        playing: Images are published at `rate_hz` while this listens.
    """

    def __init__(
        self,
        camera: Camera,
        pictures: Sequence[NDArray[np.uint8]],  # what it sees, one after the other, uint8 RGB [H, W, 3]
        *,
        compressed: bool,
        parameters: Mapping[str, object],
        reliable: bool = False,  # publish images so that none is lost; needs `image.qos: reliable`
    ) -> None:
        # All of this is read when the first participant of a process is created.
        dds.use_shipped_profile()
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        os.environ.setdefault("ROS_DOMAIN_ID", DOMAIN)
        transport = "compressed" if compressed else "raw"
        self.process = NodeProcess(f"/measured_{os.getpid()}", {**parameters, "image.transport": transport})
        self._graph, namespace = ExitStack(), self.process.namespace
        self.node, self._executor = dds.join_graph(
            lambda context: rclpy.create_node("measurement", namespace=namespace, context=context), self._graph
        )
        make = messages.compressed_image_message if compressed else messages.image_message
        self.camera, self._frames = camera, [make(picture, 0, FRAME) for picture in pictures]
        self._offered = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self._qos = QoSProfile(depth=100) if reliable else qos_profile_sensor_data
        self.make_image_publisher()
        self.infos = self.node.create_publisher(CameraInfo, topics.CAMERA_INFO, qos_profile_sensor_data)
        self.image = self._frames[0]
        self.sent, self.playing, self.rate_hz, self._next_s = 0, False, 5.0, 0.0
        self._before = Counter[str]()
        self.clouds: list[tuple[float, float]] = []
        self.times_ms: dict[str, list[float]] = {stage: [] for stage in topics.STAGES}
        self.statuses: dict[str, DiagnosticStatus] = {}  # the newest status of each part of the node, by its name
        self.make_reader()
        self.subscribe(DiagnosticArray, topics.PROCESSING_TIME, self._on_processing_time)
        self.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, 10)

    def make_image_publisher(self) -> None:
        """Begin to offer images."""
        self.images = self.node.create_publisher(*self._offered, self._qos)

    def make_reader(self) -> None:
        """Begin to read voxels."""
        # Raw: a reader in C++ would not copy the points either.
        self.reader = self.subscribe(PointCloud2, topics.VOXELS, self._on_cloud, raw=True)

    def subscribe(self, kind: Any, topic: str, callback: Any, *, raw: bool = False) -> Any:
        """Read a topic of the node."""
        return self.node.create_subscription(kind, topic.replace("~", self.process.full_name), callback, 50, raw=raw)

    def close(self) -> None:
        """End the node."""
        self._graph.close()
        self.process.__exit__()

    def start(self) -> None:
        """Await completed images, and forget them. Raises SceneCompletionError where none come for long."""
        self.playing = True
        answered = self.until(lambda: len(self.clouds) >= 3 and all(self.times_ms.values()), PATIENCE_S)
        self.playing = False
        if not answered:
            raise SceneCompletionError("no voxels came", where="scene_completion_node", cure=self.process.log())
        self.settle()
        self.forget()

    def forget(self) -> None:
        """Count anew; the node must have nothing in hand (`settle`)."""
        self.sent, self._before = 0, self._totals()
        self.clouds.clear()
        for times in self.times_ms.values():
            times.clear()

    def settle(self) -> None:
        """Send nothing until nothing comes any more and diagnostics account for every image, or for a minute."""
        deadline_s, counts = time.monotonic() + 60.0, Counter[str]()
        while time.monotonic() < deadline_s:
            read = len(self.clouds)
            self.until(lambda: False, 1.0)
            self.statuses.clear()
            if not self.until(lambda: {"input", "inference"} <= self.statuses.keys(), PATIENCE_S):
                raise SceneCompletionError("no diagnostics came", cure=self.process.log())
            former, counts = counts, self._totals()
            # The node may not have begun yet with what waits for it: twice the same.
            if read == len(self.clouds) and 2 * counts["received"] == counts.total() and counts == former:
                return

    def send(self) -> None:
        """Publish the next image with the time of now."""
        self.image = self._frames[self.sent % len(self._frames)]
        self.image.header.stamp = messages.stamp_message(time.monotonic_ns())
        self.publish(self.image)

    def publish(self, image: Any) -> None:
        """Publish a message as an image."""
        self.images.publish(image)
        self.sent += 1

    def send_camera_info(self) -> None:
        """Publish the calibration."""
        self.infos.publish(messages.camera_info_message(self.camera, time.monotonic_ns(), FRAME))

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Listen until a condition becomes true, and play meanwhile; whether it did."""
        deadline_s = time.monotonic() + timeout_s
        while not condition() and (now_s := time.monotonic()) < deadline_s:
            if self.playing and now_s >= self._next_s:
                # Images that this process is too slow to send are left out.
                self._next_s = max(self._next_s + 1.0 / self.rate_hz, now_s)
                if self.sent % 10 == 0:
                    self.send_camera_info()
                self.send()
            wait_s = self._next_s - time.monotonic() if self.playing else LONGEST_WAIT_S
            self._executor.spin_once(timeout_sec=min(max(wait_s, 0.0), LONGEST_WAIT_S))
            self.process.check()
        return condition()

    def counts(self) -> "Counter[str]":
        """Images since `forget` by the diagnostics: "received", "completed", and the reasons of those dropped."""
        return self._totals() - self._before

    def _totals(self) -> "Counter[str]":
        arrived, inference = self.values("input"), self.values("inference")
        marked = "dropped: "
        counts = Counter({name.removeprefix(marked): int(n) for name, n in arrived.items() if name.startswith(marked)})
        for reason in NO_IMAGES:
            del counts[reason]
        counts["no subscriber"] = int(inference["images without subscribers"])
        counts["received"], counts["completed"] = int(arrived["images received"]), int(inference["images completed"])
        return counts

    def values(self, part: str) -> dict[str, str]:
        """The numbers of a part in its newest status; none before the first."""
        status = self.statuses.get(part)
        return {} if status is None else {pair.key: pair.value for pair in status.values}

    def _on_processing_time(self, message: DiagnosticArray) -> None:
        for stage, milliseconds in messages.processing_times(message).items():
            self.times_ms[stage].append(milliseconds)

    def _on_cloud(self, serialised: bytes) -> None:
        # Four bytes of encapsulation, then the stamp of the header.
        seconds, nanoseconds = np.frombuffer(serialised[4:12], "<i4, <u4")[0]
        self.clouds.append((int(seconds) + 1e-9 * int(nanoseconds), time.monotonic()))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self.process.full_name.lstrip('/')}: "
        self.statuses |= {one.name.removeprefix(prefix): one for one in message.status if one.name.startswith(prefix)}
