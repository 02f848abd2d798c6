"""Subscriptions, and waiting without blocking: items for what they need."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, TypeVar

from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind

from scene_completion_ros.ros import dds
from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.health.diagnostics import InputRecord

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
        on_waiting: Callable[[], None],
    ) -> None:
        self._admit, self._turn_away, self._refuse = admit, turn_away, refuse
        self._on_waiting = on_waiting
        self._waiting: deque[tuple[Item, float]] = deque()

    def enter(self, item: Item, timeout_s: float) -> None:
        """Let an item through, at once if it needs nothing and none waits before it.

        `timeout_s`: how long it may wait. Beyond `CAPACITY` waiting ones the newest is refused: were it the oldest,
        none might ever live to see what it waits for.
        """
        deadline_s = time.monotonic() + timeout_s
        if self._waiting:
            if len(self._waiting) >= CAPACITY:
                self._refuse(item)
                return
            self._waiting.append((item, deadline_s))
            self.look()
        elif not self._passes(item, deadline_s):
            self._waiting.append((item, deadline_s))
            self._on_waiting()

    def look(self) -> bool:
        """Let through, in order, those that have what they need, and turn away those whose time is over.

        Returns whether some still wait.
        """
        while self._waiting and self._passes(*self._waiting[0]):
            self._waiting.popleft()
        return bool(self._waiting)

    def empty(self) -> list[Item]:
        """Send all away; who they were."""
        items = [item for item, _ in self._waiting]
        self._waiting.clear()
        return items

    def _passes(self, item: Item, deadline_s: float) -> bool:
        try:
            self._admit(item)
        except NotYetError as error:
            if error.may_come and time.monotonic() < deadline_s:
                return False
            self._turn_away(item, error)
        return True


def polled_room(
    node: Any,
    admit: Callable[[Item], None],
    turn_away: Callable[[Item, NotYetError], None],
    refuse: Callable[[Item], None],
    resources: ExitStack,
) -> WaitingRoom[Item]:
    """A waiting room that is looked into a hundred times a second, by a steady clock, while an item waits."""

    def look() -> None:
        if not room.look():
            timer.cancel()

    timer = dds.steady_timer(node, LOOK_PERIOD_S, look, resources)
    timer.cancel()
    room: WaitingRoom[Item] = WaitingRoom(admit, turn_away, refuse, on_waiting=timer.reset)
    return room


try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

PUBLISHERS_PERIOD_S = 0.5


class AdaptiveSubscription:
    """Subscribes best effort, which matches every publisher, and reliably where all publishers are reliable.

    The graph is looked at twice a second (by a steady clock: simulated time may stand still); for a change the
    subscription is made anew.
    """

    def __init__(
        self,
        node: Any,
        message_type: Any,
        topic: str,
        callback: Callable[[Any], None],  # called with each message
        *,
        depth: int,
        resources: ExitStack,
    ) -> None:
        self._node, self._depth = node, depth
        self.topic = node.resolve_topic_name(topic)
        self._subscribe = partial(node.create_subscription, message_type, self.topic, callback)
        self._subscription: Any = None
        self._reliable = False
        self._look()  # what comes while one subscription takes the place of another is lost
        resources.callback(lambda: node.destroy_subscription(self._subscription))
        dds.steady_timer(node, PUBLISHERS_PERIOD_S, self._look, resources)

    def _look(self) -> None:
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        offered = [info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in publishers]
        reliable = all(offered) if offered else self._reliable  # without any as before: they may come back
        if self._subscription is not None and reliable == self._reliable:
            return
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        if reliable != self._reliable:
            how = "reliable" if reliable else "best effort"
            self._node.get_logger().info(f"{self.topic}: subscribed as its publishers offer it: {how}")
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self._subscription = self._subscribe(QoSProfile(depth=self._depth, reliability=reliability))
        self._reliable = reliable


def noted_subscription(
    node: Any, message_type: Any, topic: str, callback: Any, qos: QoSProfile, record: InputRecord
) -> Any:
    """Subscribe to images, and note events of the middleware."""

    def on_incompatible_qos(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        record.incompatible = policy
        node.get_logger().warning(
            f"a publisher on {topic} offers another {policy} than this node asks for, so nothing arrives from it; "
            "see parameter image.qos"
        )

    def on_message_lost(event: Any) -> None:
        record.lost = event.total_count

    events = SubscriptionEventCallbacks(incompatible_qos=on_incompatible_qos, message_lost=on_message_lost)
    try:
        return node.create_subscription(message_type, topic, callback, qos, event_callbacks=events)
    except UnsupportedEventTypeError:  # a middleware without these events
        return node.create_subscription(message_type, topic, callback, qos)
