"""Waiting rooms that a timer of the node looks after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from rclpy.clock import Clock, ClockType

from scene_completion_ros.ros.waiting_room import NotYetError, WaitingRoom

Item = TypeVar("Item")
LOOK_PERIOD_S = 0.01


def polled_room(
    node: Any,
    admit: Callable[[Item], None],
    turn_away: Callable[[Item, NotYetError], None],
    refuse: Callable[[Item], None],
    resources: ExitStack,
) -> WaitingRoom[Item]:
    """A waiting room that is looked into a hundred times a second while somebody waits, by a steady clock.

    Args:
        node: The rclpy node.
        admit: See `WaitingRoom`.
        turn_away: See `WaitingRoom`.
        refuse: See `WaitingRoom`.
        resources: Closing it ends that.
    """

    def look() -> None:
        room.look()
        if not len(room):
            timer.cancel()

    room: WaitingRoom[Item] = WaitingRoom(admit, turn_away, refuse, on_waiting=lambda: timer.reset())
    timer = node.create_timer(LOOK_PERIOD_S, look, clock=Clock(clock_type=ClockType.STEADY_TIME))
    timer.cancel()
    resources.callback(node.destroy_timer, timer)
    return room
