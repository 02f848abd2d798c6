"""One inference thread that always takes the newest item."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
# The submitting thread steps aside for so long where the other one can begin at once: they share the interpreter, and
# what an executor does between two callbacks would cost the new item a millisecond.
HAND_OVER_S = 2e-3


class NewestWorker(Generic[Item]):
    """A thread that handles the newest submitted item; an item still waiting when a newer one comes is given up.

    Engines and their contexts belong to one thread, so everything that touches them runs here. That is items, and
    preparations for items to come, such as building the engine for another camera. Never more than one of each waits.
    """

    def __init__(
        self,
        handle: Callable[[Item], None],
        *,
        # Called in the submitting thread with an item that a newer one has replaced.
        on_replaced: Callable[[Item], None],
        # Called in the thread with an exception that `handle` or a preparation let through; the thread lives on.
        on_error: Callable[[Exception], None],
        # Called as the last thing in the thread, so that what belongs to it is released there.
        on_end: Callable[[], None] = lambda: None,
        name: str = "inference",
    ) -> None:
        self._handle, self._on_replaced, self._on_error = handle, on_replaced, on_error
        self._on_end = on_end
        self._condition = threading.Condition()
        self._newest: Item | None = None
        self._preparation: Callable[[], None] | None = None
        self._closed = self._idle = False
        self._began_s = time.perf_counter()
        # A daemon, so that a build of an engine that takes minutes cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy_s(self) -> float:
        """Seconds for which it has been at its present work; 0 where it waits for work."""
        return 0.0 if self._idle else time.perf_counter() - self._began_s

    def submit(self, item: Item) -> None:
        """Hand over an item; it replaces one that is still waiting."""
        with self._condition:
            replaced, self._newest = self._newest, item
            idle = self._idle
            self._condition.notify()
        if idle:
            time.sleep(HAND_OVER_S)
        if replaced is not None:
            self._on_replaced(replaced)

    def prepare(self, preparation: Callable[[], None]) -> None:
        """Run something in the thread once no item is waiting; it replaces what is still waiting to be run."""
        with self._condition:
            self._preparation = preparation
            self._condition.notify()

    def give_up(self) -> Item | None:
        """Forget what waits, and return the item that did, if any; what is being done now goes on."""
        with self._condition:
            given_up, self._newest, self._preparation = self._newest, None, None
        return given_up

    def close(self, timeout_s: float) -> bool:
        """End the thread after what it does now, giving up what waits; whether it ended within the timeout."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            self._attempt(work)
        self._attempt(self._on_end)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._on_error(error)

    def _next(self) -> Callable[[], None] | None:
        with self._condition:
            self._idle = True
            self._condition.wait_for(lambda: self._closed or self._newest is not None or self._preparation is not None)
            self._began_s, self._idle = time.perf_counter(), False
            if self._closed:
                return None
            if self._newest is None:
                preparation, self._preparation = self._preparation, None
                return preparation
            item, self._newest = self._newest, None
        return lambda: self._handle(item)
