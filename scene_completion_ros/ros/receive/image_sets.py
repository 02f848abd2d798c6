"""Images of several cameras that belong together, by their stamps; without ROS."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
CAPACITY = 10  # images of one camera that wait for those of others


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Item]):
    stamp_ns: int
    item: Item
    deadline_s: float


class ImageSets(Generic[Item]):
    """Collects one image of every camera, all of one moment, newest first.

    A set is delivered once there is an image of every camera within the tolerance. A camera that was waited for in vain
    is left out, and no set waits for it again until an image of it comes. Stamps of sets only grow: an image that comes
    after its time is unused.
    """

    def __init__(
        self,
        names: Sequence[str],
        # Called with the images of a set in the order of the names, and the names of cameras it is without.
        deliver: Callable[[list[Item], list[str]], None],
        unused: Callable[[Item], None],  # called with each image that comes into no set
        *,
        # Called when an image waits: from then on `look` has to be called now and then.
        on_waiting: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deliver, self._unused, self._on_waiting = deliver, unused, on_waiting
        self._clock = clock
        self._queues: dict[str, deque[_Waiting[Item]]] = {name: deque() for name in names}
        self._absent: set[str] = set()
        self._delivered_ns: int | None = None
        self._tolerance_ns = 0

    def __len__(self) -> int:
        """Number of images that wait."""
        return sum(map(len, self._queues.values()))

    def add(self, name: str, stamp_ns: int, item: Item, *, tolerance_ns: int, timeout_s: float) -> None:
        """Take an image; `tolerance_ns`: most difference of stamps in a set; `timeout_s`: how long it may wait."""
        self._absent.discard(name)
        self._tolerance_ns = tolerance_ns
        if self._delivered_ns is not None and stamp_ns <= self._delivered_ns:
            self._unused(item)
            return
        queue = self._queues[name]
        if len(queue) >= CAPACITY:
            self._unused(queue.popleft().item)
        queue.append(_Waiting(stamp_ns, item, self._clock() + timeout_s))
        found = self._around(stamp_ns)
        if found.keys() | self._absent >= self._queues.keys():
            self._hand_over(found)
        if len(self):
            self._on_waiting()

    def look(self) -> None:
        """Deliver what waited long enough, without the cameras that it waited for."""
        now_s = self._clock()
        while overdue := [
            waiting for queue in self._queues.values() for waiting in queue if waiting.deadline_s <= now_s
        ]:
            found = self._around(min(waiting.stamp_ns for waiting in overdue))
            self._absent |= self._queues.keys() - found.keys()
            self._hand_over(found)

    def empty(self) -> list[Item]:
        """Forget everything: time began anew. The images that waited."""
        items = [waiting.item for queue in self._queues.values() for waiting in queue]
        for queue in self._queues.values():
            queue.clear()
        self._delivered_ns = None
        return items

    def _around(self, stamp_ns: int) -> dict[str, _Waiting[Item]]:
        """The image of each camera that is nearest to a stamp, as far as all of them lie within the tolerance."""
        near: dict[str, _Waiting[Item]] = {}
        for name, queue in self._queues.items():
            if queue:
                nearest = min(queue, key=lambda waiting: abs(waiting.stamp_ns - stamp_ns))
                if abs(nearest.stamp_ns - stamp_ns) <= self._tolerance_ns:
                    near[name] = nearest
        last_ns = max(waiting.stamp_ns for waiting in near.values())
        return {name: waiting for name, waiting in near.items() if last_ns - waiting.stamp_ns <= self._tolerance_ns}

    def _hand_over(self, found: dict[str, _Waiting[Item]]) -> None:
        self._delivered_ns = max(waiting.stamp_ns for waiting in found.values())
        used = {id(waiting) for waiting in found.values()}
        for queue in self._queues.values():
            while queue and queue[0].stamp_ns <= self._delivered_ns:
                waiting = queue.popleft()
                if id(waiting) not in used:
                    self._unused(waiting.item)
        missing = [name for name in self._queues if name not in found]
        self._deliver([found[name].item for name in self._queues if name in found], missing)
