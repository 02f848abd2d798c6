"""The publishing and collecting end of a replay; importing it imports rclpy, so choose the Fast DDS profile before."""

import json
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from scene_completion_ros.bags.reader import CAMERA_INFO_TYPE, BagMessage
from scene_completion_ros.bags.writer import BagWriter, write_image
from scene_completion_ros.errors import BagError, SceneCompletionError
from scene_completion_ros.geometry.camera_info import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.drop_reasons import read_drop_notice
from scene_completion_ros.messages.images import decode_published_depth
from scene_completion_ros.ros import dds, messages, topics
from scene_completion_ros.ros.replay.played_node import NodeProcess
from scene_completion_ros.ros.replay.results import ReplayResult, ReplayStatistics, percentiles
from scene_completion_ros.voxels.cloud import cloud_array_from_message, match_array_from_message

STARTUP_TIMEOUT_S = 180.0  # a first start may compile the voxel query and the encoder
WARM_UP_PERIOD_S = 5.0
DISCOVERY_S = 0.2
WARM_UP_FRAME = "scene_completion_replay_warm_up"
SPIN_S = 0.05
ANSWER_TIMEOUT_S = 60.0  # for the result of an image; after that, the replay is given up
ODOMETRY_TIMEOUT_S = 5.0  # to play anyway, to a node that also matches a best-effort publisher of the topic
# The poses run this far ahead of the images: what an image needs must be there before it.
LEAD_NS = 500_000_000
QUEUE = 1000  # reliable, so nothing gets lost on the way
# A frame that has all wanted answers waits this long for its processing times, which a busy machine may send seconds
# later; then, since they are published last, that long for the map.
TIMES_PATIENCE_S, PATIENCE_S = 10.0, 0.5
# Answers to an image, in the order in which they are recorded, whatever the order in which they arrive.
RECORDED = (topics.VOXELS, topics.DEPTH, topics.DEPTH_CAMERA_INFO, topics.OCCUPANCY_GRID, topics.OBSTACLES)


@dataclass(frozen=True)
class Source:
    """What is played: images, and the calibration that goes with them."""

    compressed: bool  # whether it holds CompressedImage
    camera: Camera
    camera_info: Any  # the bag's own message, None to make one from the camera
    odometry: str  # topic for where the camera was; empty where that is not played
    frame_of: Callable[[Any], str]  # the optical frame of an image, by its header


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
        self._odometry = node.create_publisher(Odometry, source.odometry, queue) if source.odometry else None

    @property
    def heard(self) -> bool:
        """Whether both image and CameraInfo have a subscriber."""
        return bool(self._images.get_subscription_count() and self._camera_infos.get_subscription_count())

    def odometry_heard_by(self, node: str) -> bool:
        """Whether a node has subscribed to the odometry, if any is played: reliably, once it saw the publisher."""
        if self._odometry is None:
            return True
        subscribed = [
            info.qos_profile.reliability
            for info in self._node.get_subscriptions_info_by_topic(self._odometry.topic_name)
            if f"{info.node_namespace.rstrip('/')}/{info.node_name}" == node
        ]
        reliable = all(reliability == ReliabilityPolicy.RELIABLE for reliability in subscribed)
        return reliable and self._odometry.get_subscription_count() >= max(len(subscribed), 1)

    def image(self, message: Any) -> None:
        """Publish an image: a message, or one that is serialised (CDR)."""
        self._images.publish(message)

    def camera_info(self, stamp_ns: int, frame_id: str) -> None:
        """Publish the calibration with a stamp; the recorded one keeps its frame."""
        if self._source.camera_info is None:
            message = messages.camera_info_message(self._source.camera, stamp_ns, frame_id)
        else:
            recorded = self._source.camera_info
            stamp = replace(recorded.header.stamp, sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            stamped = replace(recorded, header=replace(recorded.header, stamp=stamp))
            message = bytes(_typestore().serialize_cdr(stamped, CAMERA_INFO_TYPE))
        self._camera_infos.publish(message)

    def odometry(self, pose: bytes) -> None:
        """Publish where the camera was."""
        assert self._odometry is not None
        self._odometry.publish(pose)

    def await_odometry(self) -> None:
        """Wait until the published poses have arrived at all reliable subscribers."""
        if self._odometry is not None:
            self._odometry.wait_for_all_acked(Duration(seconds=ODOMETRY_TIMEOUT_S))


class Answer:
    """What the node published."""

    def __init__(self, topic: str, cdr: bytes) -> None:
        self.spec = topics.topic_spec(topic)
        self.cdr = cdr  # the message as it was sent

    @cached_property
    def message(self) -> Any:
        """The message of rosbags; read at the first access."""
        return _typestore().deserialize_cdr(self.cdr, self.spec.type_name)

    def record(self, bag: BagWriter, stamp_ns: int, frame_id: str = "") -> None:
        """Write the message, in another frame. Made anew: rclpy leaves what was in memory in bytes between fields."""
        topic, kind, message = topics.default_name(self.spec.name), self.spec.type_name, self.message
        if frame_id:
            message = replace(message, header=replace(message.header, frame_id=frame_id))
        bag.write(topic, kind, message, stamp_ns, latched=self.spec.latched)


@cache
def _typestore() -> Typestore:
    return get_typestore(Stores.LATEST)


@dataclass(eq=False)
class SentImage:
    """An image that was published and waits for its answers."""

    index: int
    frame_id: str
    stamp_ns: int
    sent_s: float
    source: BagMessage | None = None  # none for an image of the warm-up
    answers: dict[str, Answer] = field(default_factory=dict)  # by topic
    answered_s: float = 0.0  # when the last one arrived
    latency_ms: float = 0.0
    dropped: str = ""  # why the node dropped it; empty while that is not announced

    @property
    def stages_ms(self) -> dict[str, float]:
        """Its processing times; none as long as they have not arrived."""
        answer = self.answers.get(topics.PROCESSING_TIME)
        return {} if answer is None else messages.processing_times(answer.message)

    @property
    def evidence(self) -> dict[str, float | str]:
        """The evidence for it; nothing as long as that has not arrived."""
        answer = self.answers.get(topics.PROCESSING_TIME)
        return {} if answer is None else messages.evidence_of(answer.message)


class Answers:
    """Assigns answers to the image that waits for them, by stamp and frame.

    `wanted`: topics of the answers that make an image complete, `topics.VOXELS` among them; `welcome`: topics of
    answers besides that are waited for a little: without them an image is handed over later.
    """

    def __init__(self, wanted: Collection[str], welcome: Collection[str] = ()) -> None:
        self._wanted, self._welcome = frozenset(wanted), frozenset(welcome)
        self.waiting: SentImage | None = None
        self.heard = False  # whether the node has answered at all

    def take(self, topic: str, cdr: bytes, arrived_s: float) -> None:
        """Take note of an answer; one that is not or no longer expected is left out.

        `topic`: where it was published, as in `topics`; `cdr`: the serialised message, which begins with a header;
        `arrived_s`: `time.perf_counter` of its arrival.
        """
        self.heard = self.heard or topic == topics.VOXELS
        sent = self._of(*messages.header_of(cdr))
        if sent is None or topic in sent.answers:
            return
        sent.answers[topic] = Answer(topic, cdr)
        sent.answered_s = arrived_s
        if topic == topics.VOXELS:
            sent.latency_ms = 1e3 * (arrived_s - sent.sent_s)

    def take_drop(self, stamp_ns: int, frame_id: str, reason: str) -> None:
        """Take note that the node dropped an image: nothing more is expected of it."""
        sent = self._of(stamp_ns, frame_id)
        if sent is not None and not sent.answers:
            sent.dropped = reason

    def _of(self, stamp_ns: int, frame_id: str) -> SentImage | None:
        sent = self.waiting
        if sent is None or (sent.stamp_ns, sent.frame_id.strip("/")) != (stamp_ns, frame_id.strip("/")):
            return None
        return sent

    def answered(self, sent: SentImage) -> bool:
        """Whether all wanted answers to an image have arrived."""
        return self._wanted <= sent.answers.keys()

    def complete(self, sent: SentImage) -> bool:
        """Whether all answers to an image have arrived."""
        return (self._wanted | self._welcome) <= sent.answers.keys()

    def take_ready(self, now_s: float, *, patient: bool = True) -> SentImage | None:
        """Remove the image if it is to hand over; none of the warm-up is.

        An image whose wanted answers are all there waits for the rest, see `PATIENCE_S`. `now_s`: `time.perf_counter`;
        `patient`: False waits for nothing but wanted answers any more.
        """
        sent = self.waiting
        if sent is None or sent.source is None or not self.answered(sent):
            return None
        patience_s = PATIENCE_S if topics.PROCESSING_TIME in sent.answers else TIMES_PATIENCE_S
        if patient and now_s - sent.answered_s < patience_s and not self.complete(sent):
            return None
        self.waiting = None
        return sent


class Player:
    """Publishes frames to the node and joins its answers by stamp. Raises SceneCompletionError if a topic cannot be."""

    def __init__(
        self,
        process: NodeProcess,
        source: Source,
        bag: BagWriter,
        # Called with every frame whose answers are complete, in a thread: the node completes the next image meanwhile.
        on_result: Callable[[ReplayResult], None],
        statistics: ReplayStatistics,  # filled while frames are played
        words: Sequence[str] = (),  # the query; may be empty
    ) -> None:
        self._process, self._source = process, source
        self._bag = bag
        # Milliseconds; arrays, for a recording may be played for days.
        self._stage_times = {stage: array("d") for stage in topics.STAGES}
        self._end_to_end = array("d")
        self._on_result = on_result
        # Where results are taken, one at a time, while the node completes the next image.
        self._pool, self._taken = ThreadPoolExecutor(1), Future[None]()
        self._taken.set_result(None)
        self.statistics = statistics
        self._words = tuple(words)
        self._collected = [topics.VOXELS, topics.DEPTH, topics.DEPTH_CAMERA_INFO, topics.OBSTACLES]
        self._collected += [topics.MATCHES] * bool(words)
        self._welcome = [topics.PROCESSING_TIME, topics.OCCUPANCY_GRID]  # there may be no map
        self._answers = Answers(self._collected, self._welcome)
        self._legends: list[Answer] = []  # of which the node publishes one
        self._elsewhere_s = 0.0  # spent on waiting for bag and `on_result`, while the node waited
        self._last_result_s = 0.0
        self._last_drop = ""
        self._graph = ExitStack()
        name, namespace = "scene_completion_replay", process.namespace
        with dds.prompt_acknowledgements():
            self._node, self._executor = dds.join_graph(
                lambda context: rclpy.create_node(name, namespace=namespace, context=context), self._graph
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

        def collect(topic: str) -> Callable[[bytes], None]:
            return lambda cdr: self._answers.take(topic, cdr, time.perf_counter())

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
        self._graph.close()

    def warm_up(self) -> None:
        """Send images until the newest of them is answered on every topic and the legend is there.

        Then the node has been discovered, is loaded and compiled, and has answered all earlier ones. Raises
        SceneCompletionError: the node ended, or gave no answer in a long time.
        """
        camera = self._source.camera
        # Noise, as the node would warn of an image that shows nothing.
        noise = np.random.default_rng(0).integers(0, 256, (camera.height, camera.width, 3), np.uint8)
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
            if self._words:  # until an answer shows that the node got them
                self._query.publish(String(data=json.dumps(self._words)))
            self._spin(time.perf_counter() + DISCOVERY_S, lambda: False)  # topics may overtake each other
            sent = SentImage(-1, frame_id, 0, time.perf_counter())
            self._answers.waiting = sent
            self._inputs.image(make(noise, 0, frame_id))
            self._spin(min(sent.sent_s + period_s, deadline_s), partial(self._warm_or_dropped, sent))
            if self._warm(sent):
                self._answers.waiting = None
                heard = partial(self._inputs.odometry_heard_by, self._process.full_name)
                self._spin(time.perf_counter() + ODOMETRY_TIMEOUT_S, heard)
                return
            if self._answers.heard or self._last_drop:
                period_s *= 2.0  # the newest is answered at last, however slow the machine

    def _warm(self, sent: SentImage) -> bool:
        return bool(self._legends) and self._answers.answered(sent) and topics.PROCESSING_TIME in sent.answers

    def _warm_or_dropped(self, sent: SentImage) -> bool:
        return bool(sent.dropped) or (self._warm(sent) and self._answers.complete(sent))

    def play(self, frames: Iterable[BagMessage], poses: Iterator[tuple[int, bytes]]) -> None:
        """Publish frames, and poses at their bag times; await results.

        Raises SceneCompletionError if the node ends or hangs.
        """
        begun_s = self._last_result_s = time.perf_counter()
        try:
            self._play(frames, poses)
            self._taken.result()
        finally:
            self._pool.shutdown()
            if self._words:
                self._query.publish(String())
            self._finish(self._last_result_s - begun_s - self._elsewhere_s)

    def _play(self, frames: Iterable[BagMessage], poses: Iterator[tuple[int, bytes]]) -> None:
        pose = next(poses, None)
        for index, frame in enumerate(frames):
            while pose is not None and pose[0] <= frame.stamp_ns + LEAD_NS:
                self._inputs.odometry(pose[1])
                pose = next(poses, None)
            self._inputs.await_odometry()
            self._send(index, frame)
            self._await_answer()

    def _send(self, index: int, frame: BagMessage) -> None:
        self.statistics.frames_in += 1
        try:
            header, serialised = frame.message.header, frame.cdr
        except BagError:
            self.statistics.frames_damaged += 1
            return
        stamp_ns = messages.stamp_nanoseconds(header.stamp)
        self._inputs.camera_info(stamp_ns, header.frame_id)
        self._answers.waiting = SentImage(index, header.frame_id, stamp_ns, time.perf_counter(), frame)
        self._inputs.image(serialised)

    def _spin(self, deadline_s: float, done: Callable[[], bool]) -> None:
        while not done() and (remaining_s := deadline_s - time.perf_counter()) > 0:
            self._executor.spin_once(timeout_sec=min(remaining_s, SPIN_S))
            self._process.check()
            self._hand_over()

    def _await_answer(self) -> None:
        """Wait for the image sent, if any, to be completed or dropped."""
        lost = self._answers.waiting
        if lost is None:
            return
        self._spin(lost.sent_s + ANSWER_TIMEOUT_S, lambda: self._answers.waiting is None)
        self._hand_over(patient=False)
        if self._answers.waiting is None:
            return
        self._answers.waiting = None
        self.statistics.lost_stamps_ns.append(lost.stamp_ns)
        missing = ", ".join(topic for topic in self._collected if topic not in lost.answers)
        raise SceneCompletionError(
            f"the node neither completed nor dropped image {lost.index} (stamp {lost.stamp_ns} ns) "
            f"within {ANSWER_TIMEOUT_S:g} s: no {missing}",
            where=self._process.full_name,
            cure="See what the node does; a slow machine can replay with --offline"
            + (f"; its last output:\n{log}" if (log := self._process.log()) else ""),
        )

    def _hand_over(self, *, patient: bool = True) -> None:
        """Take note of the image if its answers have arrived, or if the node dropped it."""
        sent = self._answers.waiting
        if sent is not None and sent.dropped:
            self._answers.waiting = None
            if sent.source is not None:
                self.statistics.dropped[sent.dropped] += 1
                self.statistics.lost_stamps_ns.append(sent.stamp_ns)
        elif (sent := self._answers.take_ready(time.perf_counter(), patient=patient)) is not None:
            assert sent.source is not None
            self._last_result_s = time.perf_counter()
            self._taken.result()  # or raises what went wrong with the one before
            self._taken = self._pool.submit(self._take, sent, sent.source)
            self._elsewhere_s += time.perf_counter() - self._last_result_s

    def _take(self, sent: SentImage, source: BagMessage) -> None:
        """Record and count the result of an image that has all its wanted answers, and hand it on."""
        statistics, answers = self.statistics, sent.answers
        frame_id = self._source.frame_of(source.message.header)
        voxels = cloud_array_from_message(answers[topics.VOXELS].message)
        if not statistics.frames_out:
            self._legends[-1].record(self._bag, source.stamp_ns)
        write_image(source, self._bag)
        for topic in RECORDED:
            if topic in answers:
                answers[topic].record(self._bag, source.stamp_ns, frame_id)
        self._end_to_end.append(sent.latency_ms)
        for stage, milliseconds in sent.stages_ms.items():
            self._stage_times[stage].append(milliseconds)
        statistics.frames_out += 1
        statistics.frames_empty += len(voxels) == 0
        statistics.occupied.append(len(voxels))
        statistics.evidence.append(sent.evidence)
        matches = answers.get(topics.MATCHES)
        result = ReplayResult(
            stamp_ns=sent.stamp_ns,
            frame_id=frame_id,
            image_message=source.message,
            voxels=voxels,
            depth=decode_published_depth(answers[topics.DEPTH].message),
            depth_camera=camera_from_camera_info(answers[topics.DEPTH_CAMERA_INFO].message),
            latency_ms=sent.latency_ms,
            stages_ms=sent.stages_ms,
            matches=None if matches is None else match_array_from_message(matches.message),
            evidence=sent.evidence,
        )
        self._on_result(result)

    def _finish(self, duration_s: float) -> None:
        """Write times and rate into the statistics."""
        statistics = self.statistics
        statistics.duration_s = max(duration_s, 0.0)
        statistics.rate_hz = statistics.frames_out / statistics.duration_s if statistics.duration_s else 0.0
        statistics.latency_ms = {"end_to_end": percentiles(self._end_to_end)}
        statistics.latency_ms |= {stage: percentiles(times) for stage, times in self._stage_times.items()}
