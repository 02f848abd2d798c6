"""Who waits, who passes, and in which order; without ROS and without real time."""

import pytest

from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.waiting_room import WaitingRoom


class Bench:
    """Items are numbers; those in `missing` wait, and those in `hopeless` do not even have to."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.missing: set[int] = set()
        self.hopeless: set[int] = set()
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
        if item in self.missing | self.hopeless:
            raise NotYetError("missing", may_come=item in self.missing)
        self.passed.append(item)

    def count(self) -> None:
        self.began_to_wait += 1


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nobody_overtakes(bench: Bench) -> None:
    bench.missing = {1}
    for item in (1, 2, 3):
        bench.room.enter(item, 1.0)
    assert (bench.passed, len(bench.room), bench.began_to_wait) == ([], 3, 1)
    bench.missing = {3}
    bench.room.look()
    assert (bench.passed, len(bench.room)) == ([1, 2], 1)


def test_time_ends_for_each_of_its_own(bench: Bench) -> None:
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


def test_what_cannot_come_is_not_waited_for(bench: Bench) -> None:
    bench.hopeless, bench.missing = {1}, {2}
    bench.room.enter(1, 1.0)
    bench.room.enter(2, 0.0)
    assert (bench.turned_away, len(bench.room)) == ([1, 2], 0)
