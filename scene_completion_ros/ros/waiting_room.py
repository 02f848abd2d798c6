"""Where images wait, without blocking a thread, for what they need and may still come: transforms, calibration."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from scene_completion_ros.ros import dds
from scene_completion_ros.ros.frame import NotYetError

Item = TypeVar("Item")
CAPACITY = 30
LOOK_PERIOD_S = 0.01


class WaitingRoom(Generic[Item]):
    """Lets items through in the order in which they came, each once it has what it needs or its time is over."""

    def __init__(
        self,
        admit: Callable[[Item], None],  # called with an item; raises NotYetError to let it wait
        # Called with an item that waited in vain, or for what cannot come any more, and why.
        turn_away: Callable[[Item, NotYetError], None],
        refuse: Callable[[Item], None],  # called with an item for which there is no room
        *,
        # Called when the first one begins to wait: from then on `look` has to be called now and then.
        on_waiting: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admit, self._turn_away, self._refuse = admit, turn_away, refuse
        self._on_waiting, self._clock = on_waiting, clock
        self._waiting: deque[tuple[Item, float]] = deque()

    def __len__(self) -> int:
        """Number of items that wait."""
        return len(self._waiting)

    def enter(self, item: Item, timeout_s: float) -> None:
        """Let an item through, at once if it needs nothing and none waits before it.

        `timeout_s`: how long it may wait. Beyond `CAPACITY` waiting ones the newest is refused: were it the oldest,
        none might ever live to see what it waits for.
        """
        deadline_s = self._clock() + timeout_s
        if self._waiting:
            if len(self._waiting) >= CAPACITY:
                self._refuse(item)
                return
            self._waiting.append((item, deadline_s))
            self.look()
        elif not self._passes(item, deadline_s):
            self._waiting.append((item, deadline_s))
            self._on_waiting()

    def look(self) -> None:
        """Let through, in order, those that have what they need, and turn away those whose time is over."""
        while self._waiting and self._passes(*self._waiting[0]):
            self._waiting.popleft()

    def empty(self) -> list[Item]:
        """Send all away; who they were."""
        items = [item for item, _ in self._waiting]
        self._waiting.clear()
        return items

    def _passes(self, item: Item, deadline_s: float) -> bool:
        try:
            self._admit(item)
        except NotYetError as error:
            if error.may_come and self._clock() < deadline_s:
                return False
            self._turn_away(item, error)
        return True


class Poll:
    """Calls `look` a hundred times a second, by a steady clock, from a start until nothing is left to look for."""

    def __init__(self, node: Any, look: Callable[[], bool], resources: ExitStack) -> None:
        self._look = look
        self._timer = dds.steady_timer(node, LOOK_PERIOD_S, self._tick, resources)
        self._timer.cancel()

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
    """A waiting room that is looked into while somebody waits."""

    def look() -> bool:
        room.look()
        return bool(len(room))

    poll = Poll(node, look, resources)
    room: WaitingRoom[Item] = WaitingRoom(admit, turn_away, refuse, on_waiting=poll.start)
    return room
