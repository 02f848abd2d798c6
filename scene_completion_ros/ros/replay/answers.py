"""Puts together what the node says of one image; knows nothing of rclpy."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from scene_completion_ros.bags.reader import BagMessage
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.messages import stamp_nanoseconds

STAGE_PATIENCE_S = 0.5  # a frame that has all its answers waits this long for its stage times


@dataclass(eq=False)
class SentImage:
    """An image that was published and waits for its answers."""

    index: int
    frame_id: str
    stamp_ns: int
    sent_s: float
    source: BagMessage | None = None
    """None for an image of the warm-up."""
    answers: dict[str, Any] = field(default_factory=dict)
    """Messages by topic."""
    answered_s: float = 0.0
    """When the last one arrived."""
    latency_ms: float = 0.0
    published_ns: int = -1
    """When the node published the voxels, by the clock of its middleware; -1 while they are missing."""
    dropped: str = ""
    """Why the node dropped it; empty while it has not said so."""


class Answers:
    """Assigns answers to images by stamp and frame, and stage times, which have neither, by when they were published.

    The node publishes the stage times of an image after its voxels and before the voxels of the next one. A time that
    is late, lost, or belongs to an image nobody waits for therefore changes nothing for other images.

    Args:
        wanted: Topics of the answers that make an image complete, `topics.VOXELS` among them.

    Attributes:
        other_frame: Frame of voxels that had the stamp of an image, but not its frame; empty as long as there are none.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = frozenset(wanted)
        self._published_ns: list[int] = []  # of all voxel messages, ascending
        self._times: dict[str, list[tuple[int, float]]] = {stage: [] for stage in topics.STAGES}
        self.waiting: list[SentImage] = []
        self.other_frame = ""
        self._handed_over_ns = -1  # when the last image that was handed over was published

    @property
    def heard(self) -> bool:
        """Whether the node has answered at all."""
        return bool(self._published_ns)

    def take(self, topic: str, message: Any, published_ns: int, arrived_s: float) -> None:
        """Take note of an answer; one that is not or no longer expected is left out.

        Args:
            topic: Where it was published, as in `topics`.
            message: With a header.
            published_ns: Source timestamp of the middleware.
            arrived_s: `time.perf_counter` of its arrival.
        """
        if topic == topics.VOXELS:
            insort(self._published_ns, published_ns)
        stamp_ns, frame_id = stamp_nanoseconds(message.header.stamp), message.header.frame_id
        for sent in self.waiting:
            if (sent.stamp_ns, sent.frame_id) == (stamp_ns, frame_id) and topic not in sent.answers:
                break
        else:
            if topic == topics.VOXELS:
                self._note_frame(stamp_ns, frame_id)
            return
        sent.answers[topic] = message
        sent.answered_s = arrived_s
        if topic == topics.VOXELS:
            sent.published_ns = published_ns
            sent.latency_ms = 1e3 * (arrived_s - sent.sent_s)

    def _note_frame(self, stamp_ns: int, frame_id: str) -> None:
        frames = {sent.frame_id for sent in self.waiting if sent.stamp_ns == stamp_ns}
        if frames and frame_id not in frames:
            self.other_frame = frame_id

    def take_time(self, stage: str, milliseconds: float, published_ns: int) -> None:
        """Take note of a stage time."""
        insort(self._times[stage], (published_ns, milliseconds))

    def take_drop(self, stamp_ns: int, frame_id: str, reason: str) -> None:
        """Take note that the node dropped an image: nothing more is expected of it."""
        for sent in self.waiting:
            if (sent.stamp_ns, sent.frame_id) == (stamp_ns, frame_id) and not sent.answers and not sent.dropped:
                sent.dropped = reason
                return

    def next_dropped(self) -> SentImage | None:
        """Remove the next image that the node has dropped."""
        for sent in self.waiting:
            if sent.dropped:
                self.waiting.remove(sent)
                return sent
        return None

    def stages_ms(self, sent: SentImage) -> dict[str, float]:
        """Stage times of an image, as far as they have arrived."""
        following = bisect_right(self._published_ns, sent.published_ns)
        end_ns = self._published_ns[following] if following < len(self._published_ns) else None
        found = {}
        for stage, times in self._times.items():
            first = bisect_left(times, (sent.published_ns,))
            if first < len(times) and (end_ns is None or times[first][0] < end_ns):
                found[stage] = times[first][1]
        return found

    def answered(self, sent: SentImage) -> bool:
        """Whether all answers to an image have arrived, stage times apart."""
        return self._wanted <= sent.answers.keys()

    def complete(self, sent: SentImage) -> bool:
        """Whether all answers to an image and all its stage times have arrived."""
        return self.answered(sent) and self.stages_ms(sent).keys() == self._times.keys()

    def next_ready(self, now_s: float, *, patient: bool = True) -> SentImage | None:
        """Remove the next image to hand over, in the order in which the node published.

        An image whose answers are all there waits up to `STAGE_PATIENCE_S` for missing stage times.

        Args:
            now_s: `time.perf_counter`.
            patient: False waits for no stage times any more.
        """
        self._forget()
        answered = [sent for sent in self.waiting if self.answered(sent)]
        if not answered:
            return None
        first = min(answered, key=lambda sent: sent.published_ns)
        if patient and now_s - first.answered_s < STAGE_PATIENCE_S and not self.complete(first):
            return None
        self.waiting.remove(first)
        self._handed_over_ns = first.published_ns
        return first

    def _forget(self) -> None:
        """Forget what was published before the last image handed over: later images do not ask for it."""
        del self._published_ns[: bisect_left(self._published_ns, self._handed_over_ns)]
        for times in self._times.values():
            del times[: bisect_left(times, (self._handed_over_ns,))]
