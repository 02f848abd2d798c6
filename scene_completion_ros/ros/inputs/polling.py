"""Waiting rooms that a timer of the node looks after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from rclpy.clock import Clock, ClockType

from scene_completion_ros.ros.inputs.waiting_room import NotYetError, WaitingRoom

Item = TypeVar("Item")
LOOK_PERIOD_S = 0.01


class Poll:
    """Looks a hundred times a second, by a steady clock, from a start until nothing is left to look for.

    Args:
        node: The rclpy node.
        look: Looks; whether there is still something to look for.
        resources: Closing it ends that.
    """

    def __init__(self, node: Any, look: Callable[[], bool], resources: ExitStack) -> None:
        self._look = look
        self._timer = node.create_timer(LOOK_PERIOD_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._timer.cancel()
        resources.callback(node.destroy_timer, self._timer)

    def start(self) -> None:
        """There is something to look for, from now on."""
        if self._timer.is_canceled():
            self._timer.reset()

    def _tick(self) -> None:
        if not self._look():
            self._timer.cancel()


def polled_room(
    node: Any,
    admit: Callable[[Item], None],
    turn_away: Callable[[Item, NotYetError], None],
    refuse: Callable[[Item], None],
    resources: ExitStack,
) -> WaitingRoom[Item]:
    """A waiting room that is looked into while somebody waits.

    Args:
        node: The rclpy node.
        admit: See `WaitingRoom`.
        turn_away: See `WaitingRoom`.
        refuse: See `WaitingRoom`.
        resources: Closing it ends that.
    """

    def look() -> bool:
        room.look()
        return bool(len(room))

    poll = Poll(node, look, resources)
    room: WaitingRoom[Item] = WaitingRoom(admit, turn_away, refuse, on_waiting=poll.start)
    return room
