"""Which images wait and which pass, and which images and messages belong together."""

from types import SimpleNamespace
from typing import Any

import pytest

from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.messages import stamp_message
from scene_completion_ros.ros.waiting import ImageSets, StampMatch, WaitingRoom


class Bench:
    """Items are numbers; those in `missing` wait."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.missing: set[int] = set()
        self.passed: list[int] = []
        self.turned_away: list[int] = []
        self.refused: list[int] = []
        self.began_to_wait = 0
        self.room: WaitingRoom[int] = WaitingRoom(
            self.admit,
            lambda item, _: self.turned_away.append(item),
            self.refused.append,
            on_waiting=self.count,
            clock=lambda: self.now_s,
        )

    def admit(self, item: int) -> None:
        if item in self.missing:
            raise NotYetError("missing", may_come=True)
        self.passed.append(item)

    def count(self) -> None:
        self.began_to_wait += 1


def test_images_keep_their_order() -> None:
    bench = Bench()
    bench.missing = {1}
    for item in (1, 2, 3):
        bench.room.enter(item, 1.0)
    assert (bench.passed, len(bench.room), bench.began_to_wait) == ([], 3, 1)
    bench.missing = {3}
    bench.room.look()
    assert (bench.passed, len(bench.room)) == ([1, 2], 1)


def test_time_ends_for_each_of_its_own() -> None:
    bench = Bench()
    bench.missing = {1, 2}
    bench.room.enter(1, 1.0)
    bench.now_s = 0.5
    bench.room.enter(2, 1.0)
    bench.room.enter(3, 1.0)
    bench.now_s = 1.0
    bench.room.look()
    assert (bench.turned_away, bench.passed) == ([1], [])
    bench.now_s = 1.5
    bench.room.look()
    assert (bench.turned_away, bench.passed) == ([1, 2], [3])


TOLERANCE_NS, TIMEOUT_S = 10, 1.0


class SetsBench:
    """Items are names with stamps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.delivered: list[tuple[list[str], list[str]]] = []
        self.unused: list[str] = []
        self.sets: ImageSets[str] = ImageSets(
            ("left", "front", "right"),
            lambda items, missing: self.delivered.append((items, missing)),
            self.unused.append,
            clock=lambda: self.now_s,
        )

    def add(self, name: str, stamp_ns: int) -> None:
        self.sets.add(name, stamp_ns, f"{name} {stamp_ns}", tolerance_ns=TOLERANCE_NS, timeout_s=TIMEOUT_S)

    def look(self, now_s: float) -> None:
        self.now_s = now_s
        self.sets.look()


def test_a_missing_camera_is_waited_for_once() -> None:
    sets = SetsBench()
    sets.add("left", 100)
    sets.add("front", 100)
    sets.look(0.9)
    assert not sets.delivered
    sets.look(1.0)
    assert sets.delivered == [(["left 100", "front 100"], ["right"])]
    sets.add("left", 200)
    sets.add("front", 205)  # the right one is not waited for any more
    assert sets.delivered[1] == (["left 200", "front 205"], ["right"])
    sets.add("right", 204)  # of a time that is over
    assert sets.unused == ["right 204"]
    sets.add("left", 300)
    sets.add("front", 300)
    assert len(sets.delivered) == 2  # it is there again, and waited for
    sets.add("right", 300)
    assert sets.delivered[2] == (["left 300", "front 300", "right 300"], [])


MS = 1_000_000


def match_of(*stamps_ms: int) -> StampMatch:
    match = StampMatch("/sensor", "messages", "Look at the stamps", 10)
    for number, stamp_ms in enumerate(stamps_ms):
        stamp = stamp_message(5_000 * MS + stamp_ms * MS)
        match.add(SimpleNamespace(header=SimpleNamespace(stamp=stamp), number=number))
    return match


def nearest(match: StampMatch, stamp_ms: int, *, final: bool = False) -> Any:
    return match.nearest(5_000 * MS + stamp_ms * MS, 20 * MS, final=final).number


def test_the_nearest_counts_once_no_nearer_one_may_come() -> None:
    match = match_of(0, 80, 100, 200)
    assert (nearest(match, 110), nearest(match, 185), nearest(match, 200)) == (2, 3, 3)
    with pytest.raises(NotYetError, match="none after") as waiting:
        nearest(match, 210)
    assert waiting.value.may_come and nearest(match, 210, final=True) == 3
    with pytest.raises(NotYetError, match=r"none within 0\.020 s of 5150000000 ns.*Look at the stamps") as missing:
        nearest(match, 150)
    assert not missing.value.may_come
    match.forget(5_150 * MS)
    assert nearest(match, 80) == 1  # the last three are kept
    with pytest.raises(NotYetError):
        nearest(match, 0)
    match.forget()
    with pytest.raises(NotYetError, match="none came at all"):
        nearest(match, 200, final=True)


def test_no_nearer_one_is_due_where_the_sensor_keeps_its_time() -> None:
    """Every 100 ms: after 200 the next one comes at about 300 (275 at the earliest), which is no nearer to 210."""
    match = match_of(0, 100, 200)
    assert match.settled(5_210 * MS, 20 * MS) and match.settled(5_250 * MS, 20 * MS)
    assert not match.settled(5_270 * MS, 20 * MS) and not match.settled(5_330 * MS, 20 * MS)
    assert not match_of(200).settled(5_210 * MS, 20 * MS)  # its period is not known yet
    assert not match_of(0, 100, 300).settled(5_400 * MS, 20 * MS)  # one was lost, and that of 400 is due all the same


def test_stamps_that_stand_still_are_reported_and_those_of_a_new_recording_count() -> None:
    with pytest.raises(NotYetError, match="the last is of 5100000000 ns, as are 2 before it"):
        nearest(match_of(0, 100, 100, 100), 400, final=True)
    assert nearest(match_of(100, 100), 100) == 1  # the newer one
    assert nearest(match_of(3_000, 3_100, 0, 100), 100) == 3
