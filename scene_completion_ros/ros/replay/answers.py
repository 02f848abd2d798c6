"""Puts together what the node says of one image; the result is recorded, counted and handed on."""

from array import array
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from scene_completion_ros.bags.reader import BagMessage
from scene_completion_ros.bags.writer import BagWriter, write_image
from scene_completion_ros.geometry.camera_files import camera_from_camera_info
from scene_completion_ros.messages.images import decode_published_depth
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.messages import evidence_of, header_of, processing_times
from scene_completion_ros.ros.replay.results import Percentiles, ReplayResult, ReplayStatistics
from scene_completion_ros.voxels.cloud import cloud_array_from_message, match_array_from_message

# A frame that has all wanted answers waits this long for its processing times, which a busy machine may send seconds
# later; then, since they are published last, that long for the map.
TIMES_PATIENCE_S, PATIENCE_S = 10.0, 0.5
# Answers to an image, in the order in which they are recorded, whatever the order in which they arrive.
RECORDED = (
    topics.VOXELS,
    topics.DEPTH,
    topics.DEPTH_CAMERA_INFO,
    topics.OCCUPANCY_GRID,
    topics.OBSTACLES,
    topics.MARKERS,
)


class Answer:
    """What the node published."""

    def __init__(self, topic: str, cdr: bytes) -> None:
        self.spec = topics.topic_spec(topic)
        self.cdr = cdr  # the message as it was sent

    @cached_property
    def message(self) -> Any:
        """The message of rosbags; read when somebody asks for it."""
        return _typestore().deserialize_cdr(self.cdr, self.spec.type_name)

    def record(self, bag: BagWriter, stamp_ns: int) -> None:
        """Write the message. Serialised anew: rclpy leaves whatever was in memory in the bytes between fields.

        Not so markers, which the node serialises itself, see `messages.voxels_marker`.
        """
        written = self.cdr if self.spec.name == topics.MARKERS else self.message
        bag.write(
            topics.default_name(self.spec.name), self.spec.type_name, written, stamp_ns, latched=self.spec.latched
        )


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
    # When the node published the voxels, by the clock of its middleware; -1 while they are missing.
    published_ns: int = -1
    dropped: str = ""  # why the node dropped it; empty while it has not said so

    @property
    def stages_ms(self) -> dict[str, float]:
        """Its processing times; none as long as they have not arrived."""
        answer = self.answers.get(topics.PROCESSING_TIME)
        return {} if answer is None else processing_times(answer.message)

    @property
    def evidence(self) -> dict[str, float | str]:
        """What was known beside it; nothing as long as that has not arrived."""
        answer = self.answers.get(topics.PROCESSING_TIME)
        return {} if answer is None else evidence_of(answer.message)


class Answers:
    """Assigns answers to images by stamp and frame.

    `wanted`: topics of the answers that make an image complete, `topics.VOXELS` among them; `welcome`: topics of
    answers besides that are waited for a little: without them an image is handed over later.
    """

    def __init__(self, wanted: Collection[str], welcome: Collection[str] = ()) -> None:
        self._wanted, self._welcome = frozenset(wanted), frozenset(welcome)
        self.waiting: list[SentImage] = []
        self.heard = False  # whether the node has answered at all

    def take(self, topic: str, cdr: bytes, published_ns: int, arrived_s: float) -> None:
        """Take note of an answer; one that is not or no longer expected is left out.

        `topic`: where it was published, as in `topics`; `cdr`: the serialised message, which begins with a header;
        `published_ns`: source timestamp of the middleware; `arrived_s`: `time.perf_counter` of its arrival.
        """
        self.heard = self.heard or topic == topics.VOXELS
        sent = next((one for one in self._of(*header_of(cdr)) if topic not in one.answers), None)
        if sent is None:
            return
        sent.answers[topic] = Answer(topic, cdr)
        sent.answered_s = arrived_s
        if topic == topics.VOXELS:
            sent.published_ns = published_ns
            sent.latency_ms = 1e3 * (arrived_s - sent.sent_s)

    def take_drop(self, stamp_ns: int, frame_id: str, reason: str) -> None:
        """Take note that the node dropped an image: nothing more is expected of it."""
        sent = next((one for one in self._of(stamp_ns, frame_id) if not one.answers and not one.dropped), None)
        if sent is not None:
            sent.dropped = reason

    def _of(self, stamp_ns: int, frame_id: str) -> list[SentImage]:
        wanted = stamp_ns, frame_id.strip("/")
        return [sent for sent in self.waiting if (sent.stamp_ns, sent.frame_id.strip("/")) == wanted]

    def next_dropped(self) -> SentImage | None:
        """Remove the next image that the node has dropped."""
        dropped = next((sent for sent in self.waiting if sent.dropped), None)
        if dropped is not None:
            self.waiting.remove(dropped)
        return dropped

    def answered(self, sent: SentImage) -> bool:
        """Whether all wanted answers to an image have arrived."""
        return self._wanted <= sent.answers.keys()

    def complete(self, sent: SentImage) -> bool:
        """Whether all that the node says of an image has arrived."""
        return (self._wanted | self._welcome) <= sent.answers.keys()

    def next_ready(self, now_s: float, *, patient: bool = True) -> SentImage | None:
        """Remove the next image to hand over, in the order in which the node published; none of the warm-up.

        An image whose wanted answers are all there waits for the rest, see `PATIENCE_S`. `now_s`: `time.perf_counter`;
        `patient`: False waits for nothing but wanted answers any more.
        """
        answered = [sent for sent in self.waiting if sent.source is not None and self.answered(sent)]
        if not answered:
            return None
        first = min(answered, key=lambda sent: sent.published_ns)
        patience_s = PATIENCE_S if topics.PROCESSING_TIME in first.answers else TIMES_PATIENCE_S
        if patient and now_s - first.answered_s < patience_s and not self.complete(first):
            return None
        self.waiting.remove(first)
        return first


class ResultCollector:
    """Takes complete results, in the order of the node.

    `bag`: where answers are written; None writes nothing; `statistics`: filled; `with_times`: write the processing
    times, too, which differ from run to run.
    """

    def __init__(self, bag: BagWriter | None, statistics: ReplayStatistics, *, with_times: bool = False) -> None:
        self._bag, self._statistics, self._with_times = bag, statistics, with_times
        # Milliseconds; arrays, for a recording may be played for days.
        self._stage_times = {stage: array("d") for stage in topics.STAGES}
        self._end_to_end = array("d")

    def take(self, sent: SentImage, source: BagMessage, legend: Answer) -> ReplayResult:
        """Take the result of an image. Returns what the node made of the image. `sent`: with all its wanted answers."""
        statistics, answers = self._statistics, sent.answers
        cloud = answers[topics.VOXELS].message
        voxels = cloud_array_from_message(cloud)
        if self._bag is not None:
            if not statistics.frames_out:
                legend.record(self._bag, source.stamp_ns)
            write_image(source, self._bag)
            for topic in (*RECORDED, *[topics.PROCESSING_TIME] * self._with_times):
                if topic in answers:
                    answers[topic].record(self._bag, source.stamp_ns)
        self._end_to_end.append(sent.latency_ms)
        for stage, milliseconds in sent.stages_ms.items():
            self._stage_times[stage].append(milliseconds)
        statistics.frames_out += 1
        statistics.frames_empty += len(voxels) == 0
        statistics.occupied.append(len(voxels))
        statistics.evidence.append(sent.evidence)
        matches = answers.get(topics.MATCHES)
        return ReplayResult(
            index=sent.index,
            stamp_ns=sent.stamp_ns,
            frame_id=cloud.header.frame_id,
            image_message=source.message,
            voxels=voxels,
            depth=decode_published_depth(answers[topics.DEPTH].message),
            depth_camera=camera_from_camera_info(answers[topics.DEPTH_CAMERA_INFO].message),
            latency_ms=sent.latency_ms,
            stages_ms=sent.stages_ms,
            matches=None if matches is None else match_array_from_message(matches.message),
            evidence=sent.evidence,
        )

    def finish(self, duration_s: float) -> None:
        """Write times and rate into the statistics."""
        statistics = self._statistics
        statistics.duration_s = max(duration_s, 0.0)
        statistics.rate_hz = statistics.frames_out / statistics.duration_s if statistics.duration_s else 0.0
        statistics.latency_ms = {"end_to_end": Percentiles.of(self._end_to_end)}
        statistics.latency_ms |= {stage: Percentiles.of(times) for stage, times in self._stage_times.items()}
