"""The node in a process of its own, a camera before it and readers behind it, for measurements of the whole.

The camera publishes one picture again and again, with the time of a steady clock as stamp. Collected is what the node
reports (processing times, diagnostics), and what the system reports of its process.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import String

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.ros import dds, messages, topics
from scene_completion_ros.ros.health.judgement import memory_status
from scene_completion_ros.ros.replay.played_node import NodeProcess

if TYPE_CHECKING:
    from typing_extensions import Self

FRAME = "camera_optical"
DOMAINS = 90, 101  # not those of the tests, which may run meanwhile; their ports lie below those that Linux gives away
PATIENCE_S = 600.0  # kernels may have to be compiled first, on a busy machine
QUIET_S = 1.0
LONGEST_WAIT_S = 0.05
START_HZ = 5.0
HELD_IMAGES = 20
SETTLE_S = 60.0
SENT_QUEUE = 100  # images that are sent again where they were lost
NO_IMAGES = DropReason.BAD_TRANSFORM, DropReason.BAD_CAMERA_INFO  # dropped messages that are no images


class RunningNode:
    """A completion node that gets images of one camera and whose voxels are read.

    Attributes:
        image: The message that `send` stamps and publishes.
        clouds: Stamp of each result and when it was read, seconds of `time.monotonic`.
        times_ms: Processing times of each result, by stage.
        playing: Images are published at `rate_hz` while this listens.
    """

    def __init__(
        self,
        camera: Camera,
        picture: NDArray[np.uint8],  # what it sees, uint8 RGB [H, W, 3]
        *,
        compressed: bool,
        parameters: Mapping[str, object],
        # Publish images so that none is lost; the parameter `image.qos` has to be `reliable`, too.
        reliable: bool = False,
    ) -> None:
        # All of this is read when the first participant of a process is created.
        dds.use_shipped_profile()
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(*DOMAINS)))
        transport = "compressed" if compressed else "raw"
        self._process = NodeProcess(f"/measured_{os.getpid()}", {**parameters, "image.transport": transport})
        self._graph, namespace = ExitStack(), self._process.namespace
        self.node, self._executor = dds.join_graph(
            lambda context: rclpy.create_node("measurement", namespace=namespace, context=context), self._graph
        )
        make = messages.compressed_image_message if compressed else messages.image_message
        self._camera, self.image = camera, make(picture, 0, FRAME)
        self._compressed, self._reliable = compressed, reliable
        self.make_image_publisher()
        self._infos = self.node.create_publisher(CameraInfo, topics.CAMERA_INFO, qos_profile_sensor_data)
        self.sent, self.playing, self.rate_hz, self._next_s = 0, False, START_HZ, 0.0
        self._before: tuple[int, int, dict[str, int]] = (0, 0, {})
        self.on_turn: Callable[[], None] = lambda: None  # called again and again while this listens
        self.clouds: list[tuple[float, float]] = []
        self.times_ms: dict[str, list[float]] = {stage: [] for stage in topics.STAGES}
        self.statuses: dict[str, DiagnosticStatus] = {}  # the newest status of each part of the node, by its name
        self.make_reader()
        self.subscribe(DiagnosticArray, topics.PROCESSING_TIME, self._on_processing_time)
        self.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, 10)

    def _on_processing_time(self, message: DiagnosticArray) -> None:
        for stage, milliseconds in messages.processing_times(message).items():
            self.times_ms[stage].append(milliseconds)

    def make_image_publisher(self) -> None:
        """Begin to offer images."""
        kind, topic = (CompressedImage, "image/compressed") if self._compressed else (Image, "image")
        qos = QoSProfile(depth=SENT_QUEUE) if self._reliable else qos_profile_sensor_data
        self._images = self.node.create_publisher(kind, topic, qos)

    def full_name(self, topic: str) -> str:
        """Name of a topic of the node."""
        return topic.replace("~", self._process.full_name)

    def subscribe(self, kind: Any, topic: str, callback: Any, *, raw: bool = False) -> Any:
        """Read a topic of the node."""
        return self.node.create_subscription(kind, self.full_name(topic), callback, 50, raw=raw)

    def make_reader(self) -> None:
        """Begin to read voxels."""
        # Raw: a reader in C++ would not copy the points either.
        self.reader = self.subscribe(PointCloud2, topics.VOXELS, self._on_cloud, raw=True)

    def look_for(self, words: str) -> None:
        """Have the node query words in all images from now on, and read what it finds."""
        self.subscribe(PointCloud2, topics.MATCHES, lambda _: None, raw=True)
        query = self.node.create_publisher(String, self.full_name(topics.QUERY), 10)
        self.until(lambda: query.get_subscription_count() > 0, PATIENCE_S)
        query.publish(String(data=words))
        self.until(lambda: bool(self.values("vocabulary").get("looked for")), PATIENCE_S)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._graph.close()
        self._process.__exit__()

    def start(self) -> None:
        """Await completed images, forget what was measured. Raises SceneCompletionError: none for long, or ended."""
        self.playing = True
        answered = self.until(lambda: len(self.clouds) >= 3 and all(self.times_ms.values()), PATIENCE_S)
        self.playing = False
        if not answered:
            raise SceneCompletionError("no voxels came", where="scene_completion_node", cure=self._process.log())
        self.settle()
        self.forget()

    def forget(self) -> None:
        """Forget what was measured so far; the node must have nothing in hand (`settle`)."""
        self.sent, self._before = 0, self._totals()
        self.clouds.clear()
        for times in self.times_ms.values():
            times.clear()

    def fill_queues(self) -> None:
        """Hold the node's process while images come, so that its queue of images fills to the brim.

        The middleware gets memory for a message of the queue when it holds so many for the first time, and keeps it.
        """
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            for _ in range(HELD_IMAGES):
                self.send()
                self.spin(LONGEST_WAIT_S)
        finally:
            os.kill(self._process.pid, signal.SIGCONT)
        self.settle()
        self.forget()

    def settle(self) -> None:
        """Send nothing until nothing comes any more and diagnostics account for every image, or never will."""
        deadline_s = time.monotonic() + SETTLE_S
        counts = None
        while True:
            read = len(self.clouds)
            self.spin(QUIET_S)
            self.statuses.clear()
            if not self.until(lambda: {"input", "inference"} <= self.statuses.keys(), PATIENCE_S):
                raise SceneCompletionError("no diagnostics came", cure=self._process.log())
            former, counts = counts, self.counts()
            received, completed, dropped = counts
            at_rest = read == len(self.clouds) and received == completed + sum(dropped.values())
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
        """Listen until a condition holds, and play meanwhile; whether it does."""
        deadline_s = time.monotonic() + timeout_s
        while not condition() and (now_s := time.monotonic()) < deadline_s:
            if self.playing and now_s >= self._next_s:
                self._next_s = max(self._next_s + 1.0 / self.rate_hz, now_s)
                self.play_one()
            wait_s = self._next_s - time.monotonic() if self.playing else LONGEST_WAIT_S
            self._executor.spin_once(timeout_sec=min(max(wait_s, 0.0), LONGEST_WAIT_S))
            self._process.check()
            self.on_turn()
        return condition()

    def spin(self, seconds: float) -> None:
        """Listen for some time."""
        self.until(lambda: False, seconds)

    def play_one(self) -> None:
        """Publish an image, and now and then the calibration."""
        if self.sent % 10 == 0:
            self.send_camera_info()
        self.send()

    def run(self, rate_hz: float, seconds: float) -> None:
        """Publish images at a rate; what this process cannot keep up with is left out, not made up for."""
        self.rate_hz, self.playing = rate_hz, True
        self.spin(seconds)
        self.playing = False

    def facts(self) -> dict[str, float]:
        """Memory (MB), threads and open files of the node's process, as its diagnostics name them."""
        values = memory_status(Path(f"/proc/{self._process.pid}")).values
        return {name: float(value) for name, value in values.items()}

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Images received and completed since `forget`, and dropped by reason, even unwanted; from diagnostics."""
        received, completed, dropped = self._totals()
        before = self._before
        return received - before[0], completed - before[1], dict(Counter(dropped) - Counter(before[2]))

    def _totals(self) -> tuple[int, int, dict[str, int]]:
        arrived, inference = self.values("input"), self.values("inference")
        marked = "dropped: "
        dropped = {name.removeprefix(marked): int(n) for name, n in arrived.items() if name.startswith(marked)}
        for reason in NO_IMAGES:
            dropped.pop(reason, None)
        dropped["no subscriber"] = int(inference["images without subscribers"])
        return int(arrived["images received"]), int(inference["images completed"]), dropped

    def values(self, part: str) -> dict[str, str]:
        """The numbers of a part in its newest status; none before the first."""
        status = self.statuses.get(part)
        return {} if status is None else {pair.key: pair.value for pair in status.values}

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """A service's response. Raises SceneCompletionError where the node does not answer for long, or ended."""
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
        prefix = f"{self._process.full_name.lstrip('/')}: "
        self.statuses |= {one.name.removeprefix(prefix): one for one in message.status if one.name.startswith(prefix)}
