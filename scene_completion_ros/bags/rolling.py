"""The last seconds of serialised messages, and pieces of them around moments that are worth keeping."""

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from scene_completion_ros.bags.reader import CAMERA_INFO_TYPE, IMAGE_TYPES
from scene_completion_ros.messages.record_reasons import RecordReason

MOST_REASONS = 100  # reasons that a piece remembers
_MOST_STANDING = 100  # latched messages of a topic: as many publishers may have one each


class RolledMessage(NamedTuple):
    """A message as it arrived: when, in nanoseconds; serialised (CDR); whether its topic is latched."""

    stamp_ns: int
    topic: str
    type: str
    raw: bytes
    latched: bool = False


class Moment(NamedTuple):
    """A reason to record, when it arrived, and the stamp of the image that it is about; 0 where it says none."""

    arrived_ns: int
    reason: RecordReason
    stamp_ns: int = 0


@dataclass(frozen=True, eq=False)
class RolledPiece:
    """What is to be kept."""

    start_ns: int  # first time of arrival
    stop_ns: int  # last one
    moments: tuple[Moment, ...]  # at least one
    # In the order of arrival. What holds from before (latched messages, calibration) comes first, with the time of the
    # start.
    messages: tuple[RolledMessage, ...]
    whole: bool  # nothing of the time around the moments is missing

    @property
    def value(self) -> float:
        """That of the best reason, 0..1."""
        return max(moment.reason.value for moment in self.moments)


@dataclass
class _Open:
    start_ns: int
    end_ns: int
    moments: list[Moment] = field(default_factory=list)


class RollingMemory:
    """Remembers the last seconds of messages, longer around moments; times are of one clock that never goes back.

    A piece reaches from some seconds before its first moment to some after its last one: moments whose pieces would
    overlap share one. It is ready when no moment can join it any more, or once it is as long, or as large, as allowed.

    Args:
        before_ns: Time before a moment.
        after_ns: Time after it.
        longest_ns: Length from which a piece is cut; what follows becomes another one.
        most_bytes: Bytes of messages that are remembered at most; beyond them the oldest are forgotten.
    """

    def __init__(self, before_ns: int, after_ns: int, longest_ns: int, most_bytes: int) -> None:
        self._before_ns, self._after_ns, self._longest_ns = before_ns, after_ns, longest_ns
        self._most_bytes = most_bytes
        self._messages: deque[RolledMessage] = deque()
        self._standing: dict[str, dict[bytes, RolledMessage]] = {}
        self._open: _Open | None = None
        self._lost = False
        self.size = 0  # bytes of the messages that are remembered
        self.shortened = 0  # messages that were forgotten too early, as there were too many bytes

    @property
    def span_ns(self) -> int:
        """Time between the first and the last message that are remembered."""
        return self._messages[-1].stamp_ns - self._messages[0].stamp_ns if self._messages else 0

    def add(self, message: RolledMessage) -> None:
        """Remember a message that has just arrived, and forget what no piece can need any more."""
        self._messages.append(message)
        self.size += len(message.raw)
        oldest_ns = message.stamp_ns - self._before_ns
        self._forget_before(oldest_ns if self._open is None else min(self._open.start_ns, oldest_ns))
        while self.size > self._most_bytes and len(self._messages) > 1:
            self._lost = True
            self.shortened += 1
            self._forget_first()

    def mark(self, moment: Moment) -> None:
        """A moment is worth keeping: that at which the image of its stamp arrived, or else the reason itself."""
        moment_ns = self._arrival_of(moment.stamp_ns) or moment.arrived_ns
        end_ns = moment_ns + self._after_ns
        if self._open is None:
            start_ns = moment_ns - self._before_ns
            first_ns = self._messages[0].stamp_ns if self._messages else moment_ns
            self._lost = self._lost and first_ns > start_ns
            self._open = _Open(max(start_ns, min(first_ns, moment_ns)), end_ns)
        self._open.end_ns = max(self._open.end_ns, end_ns)
        if len(self._open.moments) < MOST_REASONS:
            self._open.moments.append(moment)

    def ready(self, now_ns: int) -> RolledPiece | None:
        """Hand over the piece that is ready, which is then forgotten here."""
        piece = self._open
        if piece is None:
            return None
        if now_ns >= piece.end_ns + self._before_ns:
            return self._take(piece, piece.end_ns)
        if now_ns - piece.start_ns >= self._longest_ns or self.size >= 0.9 * self._most_bytes:
            return self._take(piece, min(now_ns, piece.end_ns))
        return None

    def rest(self, now_ns: int) -> RolledPiece | None:
        """Hand over what there is of a piece, ready or not: nothing more will come."""
        piece = self._open
        return None if piece is None else self._take(piece, min(now_ns, piece.end_ns))

    def _arrival_of(self, stamp_ns: int) -> int:
        """When the image of a stamp arrived, which the node may have needed seconds for; 0 where it is not there."""
        images = (message for message in reversed(self._messages) if message.type in IMAGE_TYPES)
        return next((image.stamp_ns for image in images if stamp_ns and _header_stamp(image.raw) == stamp_ns), 0)

    def _take(self, piece: _Open, stop_ns: int) -> RolledPiece:
        self._forget_before(piece.start_ns)
        messages = [
            held._replace(stamp_ns=piece.start_ns) for standing in self._standing.values() for held in standing.values()
        ]
        messages += [message for message in self._messages if message.stamp_ns <= stop_ns]
        self._forget_before(stop_ns + 1)
        whole, self._lost = not self._lost, False
        follows = piece.end_ns > stop_ns
        self._open = _Open(stop_ns, piece.end_ns, piece.moments[-1:]) if follows else None
        return RolledPiece(piece.start_ns, stop_ns, tuple(piece.moments), tuple(messages), whole)

    def _forget_before(self, time_ns: int) -> None:
        while self._messages and self._messages[0].stamp_ns < time_ns:
            self._forget_first()

    def _forget_first(self) -> None:
        """Forget a message, unless it holds on: then every later piece begins with it."""
        message = self._messages.popleft()
        self.size -= len(message.raw)
        if message.latched:
            standing = self._standing.setdefault(message.topic, {})
            standing.pop(message.raw, None)
            standing[message.raw] = message
            if len(standing) > _MOST_STANDING:
                del standing[next(iter(standing))]
        elif message.type == CAMERA_INFO_TYPE:
            self._standing[message.topic] = {b"": message}


def _header_stamp(raw: bytes) -> int:
    """The stamp of a serialised message that begins with a header, nanoseconds; 0 where it is too short."""
    if len(raw) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
