"""Which images wait and which pass, and which messages belong to them."""

from types import SimpleNamespace
from typing import Any

import pytest

from scene_completion_ros.ros import waiting
from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.messages import stamp_message
from scene_completion_ros.ros.waiting import StampMatch, WaitingRoom


def test_items_keep_their_order_and_each_has_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items are numbers; those in `missing` wait."""
    clock = SimpleNamespace(monotonic=lambda: clock.now_s, now_s=0.0)
    monkeypatch.setattr(waiting, "time", clock)
    missing, passed, turned_away, began_to_wait = {1, 2}, list[int](), list[int](), list[float]()

    def admit(item: int) -> None:
        if item in missing:
            raise NotYetError("missing", may_come=True)
        passed.append(item)

    room: WaitingRoom[int] = WaitingRoom(
        admit,
        lambda item, _: turned_away.append(item),
        lambda item: pytest.fail(f"{item} was refused"),
        on_waiting=lambda: began_to_wait.append(clock.now_s),
    )
    for item, clock.now_s in ((1, 0.0), (2, 0.5), (3, 0.5)):
        room.enter(item, 1.0)
    assert (passed, began_to_wait) == ([], [0.0])
    clock.now_s = 1.0
    assert room.look() and (passed, turned_away) == ([], [1])
    missing.remove(2)
    assert not room.look() and (passed, turned_away) == ([2, 3], [1])


MS = 1_000_000


def match_of(*stamps_ms: int) -> StampMatch:
    match = StampMatch("/sensor")
    for number, stamp_ms in enumerate(stamps_ms):
        stamp = stamp_message(5_000 * MS + stamp_ms * MS)
        match.add(SimpleNamespace(header=SimpleNamespace(stamp=stamp), number=number))
    return match


def nearest(match: StampMatch, stamp_ms: int, *, final: bool = False) -> Any:
    return match.nearest(5_000 * MS + stamp_ms * MS, 20 * MS, final=final).number


def test_the_nearest_counts_once_no_nearer_one_may_come() -> None:
    match = match_of(0, 80, 100, 200)
    assert (nearest(match, 110), nearest(match, 185), nearest(match, 200)) == (2, 3, 3)
    with pytest.raises(NotYetError, match="none after") as caught:
        nearest(match, 210)
    assert caught.value.may_come and nearest(match, 210, final=True) == 3
    with pytest.raises(
        NotYetError, match=r"none within 0\.020 s of 5150000000 ns.*Compare the stamps of both"
    ) as missing:
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
