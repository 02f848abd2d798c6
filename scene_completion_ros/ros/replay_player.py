"""The publishing and collecting end of a replay; importing it imports rclpy, so choose the Fast DDS profile before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Float64, String

from scene_completion_ros.bags.images import decode_depth
from scene_completion_ros.bags.reader import BagMessage
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError, SceneCompletionError
from scene_completion_ros.geometry.camera_files import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.ros.replay_answers import Answers, SentImage
from scene_completion_ros.ros.replay_node import NodeProcess
from scene_completion_ros.ros.replay_results import Percentiles, ReplayResult, ReplayStatistics
from scene_completion_ros.voxel_cloud import cloud_array_from_message

STARTUP_TIMEOUT_S = 180.0  # a first start may compile the voxel query and the encoder
WARM_UP_PERIOD_S = 5.0
DISCOVERY_S = 0.2
WARM_UP_FRAME = "scene_completion_replay_warm_up"
SPIN_S = 0.05
QUEUE = 1000  # results may wait this long while `on_result` draws

COLLECTED = {topics.VOXELS: PointCloud2, topics.DEPTH: Image, topics.DEPTH_CAMERA_INFO: CameraInfo}
COLLECTED_TYPES = {
    topics.VOXELS: "sensor_msgs/msg/PointCloud2",
    topics.DEPTH: "sensor_msgs/msg/Image",
    topics.DEPTH_CAMERA_INFO: "sensor_msgs/msg/CameraInfo",
}
LEGEND_TYPE = "std_msgs/msg/String"


@dataclass(frozen=True)
class Source:
    """What is played: images, and the calibration that goes with them."""

    topic: str
    compressed: bool
    camera: Camera
    camera_info: Any  # the bag's own message, None to make one from the camera


class Player:
    """Publishes frames to the node and puts its answers together, by stamp.

    Args:
        process: The running node.
        namespace: Where it lives.
        source: What is played.
        bag: Where its answers are written.
        on_result: Called with every frame whose answers are complete.
        statistics: Filled while frames are played.
    """

    def __init__(
        self,
        process: NodeProcess,
        namespace: str,
        source: Source,
        bag: BagWriter | None,
        on_result: Callable[[ReplayResult], None] | None,
        statistics: ReplayStatistics,
    ) -> None:
        self._process, self._source, self._bag, self._on_result = process, source, bag, on_result
        self.statistics = statistics
        self._answers = Answers(COLLECTED)
        self._legends: list[Any] = []  # of which the node publishes one
        self._stage_times: dict[str, list[float]] = {stage: [] for stage in topics.STAGES}
        self._end_to_end: list[float] = []
        self._elsewhere_s = 0.0  # spent on the bag and in `on_result`
        self._last_result_s = 0.0
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("replay", namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._connect(f"{namespace}/{topics.NODE_NAME}/")

    def _connect(self, node_prefix: str) -> None:
        queue = QoSProfile(depth=QUEUE)  # reliable, so nothing gets lost on the way
        compressed = self._source.compressed
        self._images = self._node.create_publisher(
            CompressedImage if compressed else Image,
            f"{topics.IMAGE}/compressed" if compressed else topics.IMAGE,
            queue,
        )
        self._camera_infos = self._node.create_publisher(CameraInfo, topics.CAMERA_INFO, queue)

        def collect(topic: str) -> Callable[[Any, Mapping[str, int]], None]:
            def take(message: Any, info: Mapping[str, int]) -> None:
                self._answers.take(topic, message, info["source_timestamp"], time.perf_counter())

            return take

        def collect_time(stage: str) -> Callable[[Any, Mapping[str, int]], None]:
            def take(message: Any, info: Mapping[str, int]) -> None:
                self._answers.take_time(stage, message.data, info["source_timestamp"])

            return take

        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(String, topics.LEGEND.replace("~/", node_prefix), self._legends.append, latched)
        for topic, message_type in COLLECTED.items():
            self._node.create_subscription(message_type, topic.replace("~/", node_prefix), collect(topic), queue)
        for stage in topics.STAGES:
            topic = topics.stage_topic(stage).replace("~/", node_prefix)
            self._node.create_subscription(Float64, topic, collect_time(stage), queue)

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()
        self._context.destroy()

    def warm_up(self) -> None:
        """Send grey images until the newest of them is answered on every topic and the legend is there.

        Then the node has been discovered, is loaded and compiled, and has nothing left to say of earlier ones.

        Raises:
            SceneCompletionError: The node ended, or gave no answer in a long time.
        """
        camera = self._source.camera
        grey = np.full((camera.height, camera.width, 3), 128, np.uint8)
        make = messages.compressed_image_message if self._source.compressed else messages.image_message
        deadline_s = time.perf_counter() + STARTUP_TIMEOUT_S
        attempts, period_s = 0, WARM_UP_PERIOD_S
        while True:
            if time.perf_counter() > deadline_s:
                raise SceneCompletionError(
                    f"the node gave no {'complete ' * self._answers.heard}answer within {STARTUP_TIMEOUT_S:.0f} s",
                    where="scene_completion_node",
                    cure=self._process.log(),
                )
            self._spin(time.perf_counter() + DISCOVERY_S, lambda: False)
            if not (self._images.get_subscription_count() and self._camera_infos.get_subscription_count()):
                continue
            attempts += 1
            frame_id = f"{WARM_UP_FRAME}_{attempts}"
            self._publish_camera_info(0, frame_id)
            self._spin(time.perf_counter() + DISCOVERY_S, lambda: False)  # topics may overtake each other
            sent = SentImage(-1, frame_id, 0, time.perf_counter())
            self._answers.waiting = [sent]
            self._images.publish(make(grey, 0, frame_id))
            self._spin(min(sent.sent_s + period_s, deadline_s), partial(self._warm, sent))
            if self._warm(sent):
                self._answers.waiting.clear()
                return
            if self._answers.heard:
                period_s *= 2.0  # the newest is answered at last, however slow the machine

    def _warm(self, sent: SentImage) -> bool:
        return bool(self._legends) and self._answers.complete(sent)

    def play(self, frames: Iterable[BagMessage], rate: float | None, timeout_s: float) -> None:
        """Publish all frames, in lock step or at a rate, and wait for their results (see `replay_over_dds`)."""
        begun_s = self._last_result_s = time.perf_counter()
        first_ns: int | None = None
        try:
            for index, frame in enumerate(frames):
                if rate is not None:
                    first_ns = frame.stamp_ns if first_ns is None else first_ns
                    self._spin(begun_s + (frame.stamp_ns - first_ns) * 1e-9 / rate, lambda: False)
                self._send(index, frame)
                if rate is None:
                    self._await_all(timeout_s)
            self._await_all(timeout_s)
        finally:
            self._finish(begun_s)

    def _finish(self, begun_s: float) -> None:
        statistics = self.statistics
        statistics.duration_s = max(self._last_result_s - begun_s - self._elsewhere_s, 0.0)
        statistics.rate_hz = statistics.frames_out / statistics.duration_s if statistics.duration_s else 0.0
        statistics.latency_ms = {"end_to_end": Percentiles.of(self._end_to_end)}
        statistics.latency_ms |= {stage: Percentiles.of(times) for stage, times in self._stage_times.items()}

    def _send(self, index: int, frame: BagMessage) -> None:
        self.statistics.frames_in += 1
        try:
            header, serialised = frame.message.header, frame.cdr
        except BagError:
            self.statistics.frames_damaged += 1
            return
        stamp_ns = messages.stamp_nanoseconds(header.stamp)
        self._publish_camera_info(stamp_ns, header.frame_id)
        self._answers.waiting.append(SentImage(index, header.frame_id, stamp_ns, time.perf_counter(), frame))
        self._images.publish(serialised)

    def _publish_camera_info(self, stamp_ns: int, frame_id: str) -> None:
        if self._source.camera_info is None:
            message = messages.camera_info_message(self._source.camera, stamp_ns, frame_id)
        else:
            message = messages.copied_camera_info(self._source.camera_info, stamp_ns)
        self._camera_infos.publish(message)

    def _spin(self, deadline_s: float, done: Callable[[], bool]) -> None:
        while not done() and (remaining_s := deadline_s - time.perf_counter()) > 0:
            self._executor.spin_once(timeout_sec=min(remaining_s, SPIN_S))
            self._process.check()
            self._hand_over()

    def _await_all(self, timeout_s: float) -> None:
        """Wait for the newest image sent: the node answers in order, so what is then still missing is lost."""
        waiting = self._answers.waiting
        if waiting:
            newest = waiting[-1]
            self._spin(newest.sent_s + timeout_s, lambda: newest not in waiting)
        self._hand_over(patient=False)
        self.statistics.lost_stamps_ns += [sent.stamp_ns for sent in waiting]
        waiting.clear()

    def _hand_over(self, *, patient: bool = True) -> None:
        """Take note of the frames whose answers have arrived, in the order of the node."""
        while (sent := self._answers.next_ready(time.perf_counter(), patient=patient)) is not None:
            if sent.source is None:  # of the warm-up
                continue
            self._last_result_s = time.perf_counter()
            self._deliver(sent, sent.source, self._answers.stages_ms(sent))
            self._elsewhere_s += time.perf_counter() - self._last_result_s

    def _deliver(self, sent: SentImage, source: BagMessage, stages_ms: dict[str, float]) -> None:
        if self._bag is not None:
            if not self.statistics.frames_out:
                legend = serialize_message(self._legends[-1])
                self._bag.write(_bag_topic(topics.LEGEND), LEGEND_TYPE, legend, source.stamp_ns, latched=True)
            for topic, message in sent.answers.items():
                self._bag.write(_bag_topic(topic), COLLECTED_TYPES[topic], serialize_message(message), source.stamp_ns)
        voxels: NDArray[np.void] = cloud_array_from_message(sent.answers[topics.VOXELS])
        self._end_to_end.append(sent.latency_ms)
        for stage, milliseconds in stages_ms.items():
            self._stage_times[stage].append(milliseconds)
        self.statistics.frames_out += 1
        self.statistics.frames_empty += len(voxels) == 0
        self.statistics.occupied.append(len(voxels))
        if self._on_result is not None:
            self._on_result(
                ReplayResult(
                    index=sent.index,
                    stamp_ns=sent.stamp_ns,
                    frame_id=sent.answers[topics.VOXELS].header.frame_id,
                    image_message=source.message,
                    voxels=voxels,
                    depth=decode_depth(sent.answers[topics.DEPTH]),
                    depth_camera=camera_from_camera_info(sent.answers[topics.DEPTH_CAMERA_INFO]),
                    latency_ms=sent.latency_ms,
                    stages_ms=stages_ms,
                )
            )


def _bag_topic(topic: str) -> str:
    return topic.replace("~", f"/{topics.NODE_NAME}")
