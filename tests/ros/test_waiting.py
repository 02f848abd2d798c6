"""Which images wait and which pass."""

from types import SimpleNamespace

import pytest

from scene_completion_ros.ros import waiting
from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.waiting import WaitingRoom


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
