"""The last seconds of messages: what belongs to a piece, what is held on to, and how much is remembered."""

from typing import Any

from scene_completion_ros.bags.pieces import Moment, RolledMessage, RolledPiece, RollingMemory
from scene_completion_ros.bags.reader import CAMERA_INFO_TYPE, TRANSFORM_TYPE
from scene_completion_ros.messages.drop_reasons import RecordReason
from tests.bags.recordings import STORE, compressed

SECOND_NS = 1_000_000_000
UNSURE = RecordReason("unsure", score=0.5, threshold=0.4)
IMAGE = "sensor_msgs/msg/CompressedImage"


def rolling(before: float = 2.0, after: float = 3.0, longest: float = 60.0, most: int = 10**9) -> RollingMemory:
    before_ns, after_ns, longest_ns = (round(value * SECOND_NS) for value in (before, after, longest))
    return RollingMemory(before_ns, after_ns, longest_ns, most)


def message(second: float, topic: str = "/odom", kind: str = "nav_msgs/msg/Odometry", **further: Any) -> RolledMessage:
    said = {"raw": f"{topic} at {second:g}".encode(), **further}
    return RolledMessage(round(second * SECOND_NS), topic, kind, **said)


def image(arrived: float, stamped: float) -> RolledMessage:
    """An image that took a while, serialised as ROS does."""
    made = compressed(b"jpeg", "jpeg", stamp_ns=round(stamped * SECOND_NS))
    return message(arrived, "/image", IMAGE, raw=bytes(STORE.serialize_cdr(made, IMAGE)))


def drive(memory: RollingMemory, until: int, requests: dict[int, Moment], start: int = 0) -> list[RolledPiece]:
    """A message a second, and requests right after some."""
    pieces = []
    for second in range(start, until):
        memory.add(message(second))
        if second in requests:
            memory.mark(requests[second])
        pieces += [piece for piece in [memory.ready(second * SECOND_NS)] if piece]
    return pieces


def at(second: float, reason: RecordReason = UNSURE, stamp: float = 0.0) -> Moment:
    return Moment(round(second * SECOND_NS), reason, round(stamp * SECOND_NS))


def seconds(piece: RolledPiece) -> list[float]:
    return [one.stamp_ns / SECOND_NS for one in piece.messages]


def test_moments_whose_pieces_overlap_share_one_and_others_do_not() -> None:
    best = RecordReason("wrong", score=0.9, threshold=0.4)
    (shared,) = drive(rolling(), 40, {10: at(10), 14: at(14, best)})  # 8..13 and 12..17
    assert seconds(shared) == list(range(8, 18))
    assert [moment.reason for moment in shared.moments] == [UNSURE, best]
    assert shared.value == best.value
    apart = drive(rolling(), 40, {10: at(10), 16: at(16)})  # 8..13 and 14..19
    assert [seconds(piece) for piece in apart] == [list(range(8, 14)), list(range(14, 20))]


def test_a_long_piece_is_cut_and_no_message_is_in_two() -> None:
    pieces = drive(rolling(longest=10.0), 60, {second: at(second) for second in range(10, 40, 2)})
    found = [second for piece in pieces for second in seconds(piece)]
    assert found == list(range(8, 42))
    assert len(pieces) > 2
    assert all(piece.stop_ns - piece.start_ns <= 11 * SECOND_NS for piece in pieces)
    assert all(piece.moments for piece in pieces)


def test_what_holds_from_before_begins_every_piece() -> None:
    memory = rolling()
    memory.add(message(0, "/tf_static", TRANSFORM_TYPE, raw=b"mount", latched=True))
    memory.add(message(0, "/tf_static", TRANSFORM_TYPE, raw=b"lidar", latched=True))
    memory.add(message(0, "/tf_static", TRANSFORM_TYPE, raw=b"mount", latched=True))  # subscribed anew
    for second in (0.2, 0.4):
        memory.add(message(second, "/camera_info", CAMERA_INFO_TYPE))
    pieces = drive(memory, 60, {10: at(10), 40: at(40)}, start=1)
    for piece, start in zip(pieces, (8, 38), strict=True):
        held, rest = piece.messages[:3], piece.messages[3:]
        assert [one.raw for one in held] == [b"lidar", b"mount", b"/camera_info at 0.4"]
        assert {one.stamp_ns for one in held} == {start * SECOND_NS}
        assert {one.topic for one in rest} == {"/odom"}


def test_what_was_handed_over_already_is_not_handed_over_again() -> None:
    memory = rolling(before=20.0)
    memory.add(image(9.5, stamped=5.0))
    memory.mark(at(10))
    first = memory.rest(12 * SECOND_NS)
    assert first is not None and seconds(first) == [9.5]
    memory.add(image(13.0, stamped=6.0))
    memory.mark(at(14, stamp=6.0))
    rest = memory.rest(30 * SECOND_NS)
    assert rest is not None and seconds(rest) == [13.0]
    assert rest.start_ns >= first.stop_ns


def test_bytes_are_bounded_and_what_is_lost_is_said() -> None:
    memory = rolling(before=100.0, most=200)
    for second in range(100):
        memory.add(message(second, raw=bytes(20)))
        assert memory.size <= 200
    assert memory.shortened == 90
    memory.mark(at(99))
    piece = memory.ready(99 * SECOND_NS)  # at once: there is no room for more
    assert piece is not None and not piece.whole
    assert seconds(piece) == list(range(90, 100))
    assert memory.size == 0
    for second in range(300, 305):
        memory.add(message(second, raw=bytes(20)))
    memory.mark(at(304))
    whole = memory.rest(304 * SECOND_NS)
    assert whole is not None and whole.whole
