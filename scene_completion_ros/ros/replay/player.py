"""The publishing and collecting end of a replay; importing it imports rclpy, so choose the Fast DDS profile before."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from scene_completion_ros.bags.reader import BagMessage
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError, SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.drop_reasons import read_drop_notice
from scene_completion_ros.ros import dds, messages, topics
from scene_completion_ros.ros.replay.answers import Answer, Answers, ResultCollector, SentImage
from scene_completion_ros.ros.replay.played_node import NodeProcess
from scene_completion_ros.ros.replay.results import (
    LEAD_NS,
    DeferredResults,
    MadeMessage,
    Playback,
    ReplayResult,
    ReplayStatistics,
)

STARTUP_TIMEOUT_S = 180.0  # a first start may compile the voxel query and the encoder
WARM_UP_PERIOD_S = 5.0
DISCOVERY_S = 0.2
WARM_UP_FRAME = "scene_completion_replay_warm_up"
SPIN_S = 0.05
NOTICE_PATIENCE_S = 5.0
OTHERS_TIMEOUT_S = 5.0  # to play anyway, to a node that hears another publisher of a topic too, which is best effort
QUEUE = 1000  # reliable, so nothing gets lost on the way


@dataclass(frozen=True)
class Source:
    """What is played: images, and the calibration that goes with them."""

    topic: str
    compressed: bool  # whether it holds CompressedImage
    camera: Camera
    camera_info: Any  # the bag's own message, None to make one from the camera
    also: Mapping[str, str]  # further topics -> message type
    awaited: tuple[str, ...] = ()  # those of them that the node is sure to subscribe to


class InputPublishers:
    """Publishers of a replay, in its node's namespace. Raises SceneCompletionError if a message package is missing."""

    def __init__(self, node: Any, source: Source) -> None:
        self._source, self._node = source, node
        queue = QoSProfile(depth=QUEUE)
        image_type, image_topic = (
            (CompressedImage, f"{topics.IMAGE}/compressed") if source.compressed else (Image, topics.IMAGE)
        )
        self._images = node.create_publisher(image_type, image_topic, queue)
        self._camera_infos = node.create_publisher(CameraInfo, topics.CAMERA_INFO, queue)
        latched = QoSProfile(depth=QUEUE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._others = {
            topic: node.create_publisher(
                messages.message_class(kind, topic), topic, latched if topic.endswith("tf_static") else queue
            )
            for topic, kind in source.also.items()
        }

    @property
    def heard(self) -> bool:
        """Whether somebody subscribed to both image and CameraInfo."""
        return bool(self._images.get_subscription_count() and self._camera_infos.get_subscription_count())

    def others_heard_by(self, node: str) -> bool:
        """Whether a node hears all further topics: reliably, once it saw the publishers (`AdaptiveSubscription`)."""
        for topic, publisher in self._others.items():
            subscribed = [
                info
                for info in self._node.get_subscriptions_info_by_topic(publisher.topic_name)
                if f"{info.node_namespace.rstrip('/')}/{info.node_name}" == node
            ]
            if any(info.qos_profile.reliability != ReliabilityPolicy.RELIABLE for info in subscribed):
                return False
            if publisher.get_subscription_count() < max(len(subscribed), topic in self._source.awaited):
                return False
        return True

    def image(self, message: Any) -> None:
        """Publish an image: a message, or one that is serialised (CDR)."""
        self._images.publish(message)

    def camera_info(self, stamp_ns: int, frame_id: str) -> None:
        """Publish the calibration with a stamp; the recorded one keeps its frame."""
        if self._source.camera_info is None:
            message = messages.camera_info_message(self._source.camera, stamp_ns, frame_id)
        else:
            message = messages.copied_camera_info(self._source.camera_info, stamp_ns)
        self._camera_infos.publish(message)

    def other(self, further: BagMessage | MadeMessage) -> None:
        """Publish a message of a further topic."""
        self._others[further.topic].publish(further.cdr)

    def await_others(self) -> None:
        """Wait until what was published of further topics has arrived, wherever it is heard reliably."""
        for publisher in self._others.values():
            publisher.wait_for_all_acked(Duration(seconds=OTHERS_TIMEOUT_S))


class Player:
    """Publishes frames to the node and joins its answers by stamp. Raises SceneCompletionError if a topic cannot be."""

    def __init__(
        self,
        process: NodeProcess,
        source: Source,
        playback: Playback,
        bag: BagWriter | None,
        # Called with every frame whose answers are complete. In lock step that is at once, in a thread: the node
        # completes the next image meanwhile. In real time it is at the end.
        on_result: Callable[[ReplayResult], None] | None,
        statistics: ReplayStatistics,  # filled while frames are played
        words: Sequence[str] = (),  # what the node is asked for; may be none
    ) -> None:
        self._process, self._source, self._playback = process, source, playback
        self._results = ResultCollector(bag, statistics, with_times=playback.rate is not None)
        self._on_result, self._deferred = on_result, DeferredResults()
        # Where results are taken in lock step, one at a time, while the node completes the next image.
        self._pool, self._taken = ThreadPoolExecutor(1), Future[None]()
        self._taken.set_result(None)
        self.statistics = statistics
        self._words = tuple(words)
        self._collected = [topics.VOXELS, topics.DEPTH, topics.DEPTH_CAMERA_INFO, *[topics.MATCHES] * bool(words)]
        self._welcome = [topics.PROCESSING_TIME]
        if bag is not None:
            self._welcome.append(topics.OCCUPANCY_GRID)  # there may be no map
            self._collected += [topics.OBSTACLES, topics.MARKERS]
        self._answers = Answers(self._collected, self._welcome)
        self._legends: list[Answer] = []  # of which the node publishes one
        self._elsewhere_s = 0.0  # spent on waiting for bag and `on_result`, while the node waited
        self._last_result_s = 0.0
        self._first_ns = 0  # bag time at which the recording begins, and when it did by `time.perf_counter`
        self._begun_s = 0.0
        self._last_drop = ""
        self._graph = ExitStack()
        self._node, self._executor = dds.join_graph(
            lambda context: rclpy.create_node("scene_completion_replay", namespace=process.namespace, context=context),
            self._graph,
        )
        try:
            self._inputs = InputPublishers(self._node, source)
            self._subscribe(f"{process.full_name}/")
        except BaseException:
            self.close()
            raise

    def _subscribe(self, node_prefix: str) -> None:
        queue = QoSProfile(depth=QUEUE)  # results may wait while `on_result` draws

        def subscribe(topic: str, take: Callable[..., None], qos: QoSProfile) -> None:
            kind = messages.message_class(topics.topic_spec(topic).type_name, topic)
            self._node.create_subscription(kind, topic.replace("~/", node_prefix), take, qos, raw=True)

        def collect(topic: str) -> Callable[[bytes, Mapping[str, int]], None]:
            def take(cdr: bytes, info: Mapping[str, int]) -> None:
                self._answers.take(topic, cdr, info["source_timestamp"], time.perf_counter())

            return take

        def take_legend(cdr: bytes) -> None:
            self._legends.append(Answer(topics.LEGEND, cdr))

        subscribe(topics.LEGEND, take_legend, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        for topic in (*self._collected, *self._welcome):
            subscribe(topic, collect(topic), queue)
        self._node.create_subscription(String, topics.DROPPED.replace("~/", node_prefix), self._on_drop, queue)
        self._query = self._node.create_publisher(String, topics.QUERY.replace("~/", node_prefix), queue)

    def _on_drop(self, message: Any) -> None:
        try:
            stamp_ns, frame_id, self._last_drop = read_drop_notice(message.data)
        except SceneCompletionError:  # of a node of another version: its images count as lost
            return
        self._answers.take_drop(stamp_ns, frame_id, self._last_drop)

    def close(self) -> None:
        """Leave the ROS graph."""
        self._pool.shutdown()
        self._deferred.close()
        self._graph.close()

    def warm_up(self) -> None:
        """Send grey images until the newest of them is answered on every topic and the legend is there.

        Then the node has been discovered, is loaded and compiled, and has nothing left to say of earlier ones. Raises
        SceneCompletionError: the node ended, or gave no answer in a long time.
        """
        camera = self._source.camera
        grey = np.full((camera.height, camera.width, 3), 128, np.uint8)
        make = messages.compressed_image_message if self._source.compressed else messages.image_message
        deadline_s = time.perf_counter() + STARTUP_TIMEOUT_S
        attempts, period_s = 0, WARM_UP_PERIOD_S
        while True:
            if time.perf_counter() > deadline_s:
                dropped = f", it dropped images: {self._last_drop}" if self._last_drop else ""
                raise SceneCompletionError(
                    f"the node gave no {'complete ' * self._answers.heard}answer within {STARTUP_TIMEOUT_S:.0f} s"
                    f"{dropped}",
                    where=self._process.full_name,
                    cure=self._process.log(),
                )
            self._spin(time.perf_counter() + DISCOVERY_S, lambda: False)
            if not self._inputs.heard:
                continue
            attempts += 1
            frame_id = f"{WARM_UP_FRAME}_{attempts}"
            self._inputs.camera_info(0, frame_id)
            if self._words:  # until an answer shows that the node has heard of them
                self._query.publish(String(data=json.dumps(self._words)))
            self._spin(time.perf_counter() + DISCOVERY_S, lambda: False)  # topics may overtake each other
            sent = SentImage(-1, frame_id, 0, time.perf_counter())
            self._answers.waiting = [sent]
            self._inputs.image(make(grey, 0, frame_id))
            self._spin(min(sent.sent_s + period_s, deadline_s), partial(self._warm_or_dropped, sent))
            if self._warm(sent):
                self._answers.waiting.clear()
                heard = partial(self._inputs.others_heard_by, self._process.full_name)
                self._spin(time.perf_counter() + OTHERS_TIMEOUT_S, heard)
                return
            if self._answers.heard or self._last_drop:
                period_s *= 2.0  # the newest is answered at last, however slow the machine

    def _warm(self, sent: SentImage) -> bool:
        return bool(self._legends) and self._answers.answered(sent) and topics.PROCESSING_TIME in sent.answers

    def _warm_or_dropped(self, sent: SentImage) -> bool:
        return bool(sent.dropped) or (self._warm(sent) and self._answers.complete(sent))

    def play(self, frames: Iterable[BagMessage], others: Iterable[BagMessage | MadeMessage]) -> None:
        """Publish in lock step or at a rate, await results. Raises SceneCompletionError if the node ends or hangs."""
        begun_s = self._last_result_s = time.perf_counter()
        try:
            self._play(frames, others)
            self._taken.result()
        finally:
            self._pool.shutdown()
            if self._words:
                self._query.publish(String())
            self._results.finish(self._last_result_s - begun_s - self._elsewhere_s)
            if self._on_result is not None:
                for result in self._deferred.take_all():
                    self._on_result(result)

    def _play(self, frames: Iterable[BagMessage], others: Iterable[BagMessage | MadeMessage]) -> None:
        lock_step = self._playback.rate is None
        lead_ns = LEAD_NS if lock_step else 0
        further = iter(others)
        other = next(further, None)
        for index, frame in enumerate(frames):
            if index == 0:
                self._first_ns, self._begun_s = frame.stamp_ns, time.perf_counter()
            while other is not None and other.stamp_ns <= frame.stamp_ns + lead_ns:
                self._wait_for(other.stamp_ns)
                self._inputs.other(other)
                other = next(further, None)
            self._wait_for(frame.stamp_ns)
            if lock_step:
                self._inputs.await_others()
            self._send(index, frame)
            if lock_step:
                self._await_all()
        self._await_all()

    def _wait_for(self, until_ns: int) -> None:
        """In real time, let the recorded time pass."""
        if self._playback.rate is not None and until_ns >= self._first_ns:
            self._spin(self._begun_s + (until_ns - self._first_ns) * 1e-9 / self._playback.rate, lambda: False)

    def _send(self, index: int, frame: BagMessage) -> None:
        self.statistics.frames_in += 1
        try:
            header, serialised = frame.message.header, frame.cdr
        except BagError:
            self.statistics.frames_damaged += 1
            return
        stamp_ns = messages.stamp_nanoseconds(header.stamp)
        self._inputs.camera_info(stamp_ns, header.frame_id)
        self._answers.waiting.append(SentImage(index, header.frame_id, stamp_ns, time.perf_counter(), frame))
        self._inputs.image(serialised)

    def _spin(self, deadline_s: float, done: Callable[[], bool]) -> None:
        while not done() and (remaining_s := deadline_s - time.perf_counter()) > 0:
            self._executor.spin_once(timeout_sec=min(remaining_s, SPIN_S))
            self._process.check()
            self._hand_over()

    def _await_all(self) -> None:
        """Wait for the newest image sent: the node answers in order, so what is then still missing is lost.

        Or dropped, and the notice of that, which is of another topic, is still to be read.
        """
        waiting, timeout_s = self._answers.waiting, self._playback.timeout_s
        if waiting:
            newest = waiting[-1]
            self._spin(newest.sent_s + timeout_s, lambda: newest not in waiting)
            if newest not in waiting:
                self._spin(time.perf_counter() + NOTICE_PATIENCE_S, lambda: not waiting)
        self._hand_over(patient=False)
        self.statistics.lost_stamps_ns += [sent.stamp_ns for sent in waiting]
        lost = waiting[-1] if waiting else None
        waiting.clear()
        if lost is not None and self._playback.rate is None:
            missing = ", ".join(topic for topic in self._collected if topic not in lost.answers)
            raise SceneCompletionError(
                f"the node neither completed nor dropped image {lost.index} (stamp {lost.stamp_ns} ns) "
                f"within {timeout_s:g} s: no {missing}",
                where=self._process.full_name,
                cure="See what the node does; a slow machine can replay with --offline"
                + (f"; it last said:\n{log}" if (log := self._process.log()) else ""),
            )

    def _hand_over(self, *, patient: bool = True) -> None:
        """Take note of the frames whose answers have arrived, in the order of the node, and of those it dropped."""
        while (sent := self._answers.next_dropped()) is not None:
            if sent.source is not None:
                self.statistics.dropped[sent.dropped] += 1
                self.statistics.lost_stamps_ns.append(sent.stamp_ns)
        while (sent := self._answers.next_ready(time.perf_counter(), patient=patient)) is not None:
            assert sent.source is not None
            self._last_result_s = time.perf_counter()
            if self._playback.rate is None:
                self._taken.result()  # or raises what went wrong with the one before
                self._taken = self._pool.submit(self._take, sent, sent.source, self._on_result)
                self._elsewhere_s += time.perf_counter() - self._last_result_s
            else:
                self._take(sent, sent.source, self._on_result and partial(self._deferred.put, source=sent.source))

    def _take(self, sent: SentImage, source: BagMessage, then: Callable[[ReplayResult], None] | None) -> None:
        result = self._results.take(sent, source, self._legends[-1])
        if then is not None:
            then(result)
