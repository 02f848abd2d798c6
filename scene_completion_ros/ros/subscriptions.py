"""Subscriptions: one whose QoS follows that of the publishers, and those that note what the middleware says of them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind

from scene_completion_ros.ros import dds
from scene_completion_ros.ros.health.input_health import InputRecord

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

LOOK_PERIOD_S = 0.5


class AdaptiveSubscription:
    """Subscribes best effort, which hears everybody, and better where all publishers offer better.

    With publishers that are all reliable it is reliable, so that nothing is lost. With `latched` and publishers that
    are all transient local it is that too, so that it hears what was published before. The graph is looked at twice a
    second (by a steady clock: simulated time may stand still); for a change the subscription is made anew.
    """

    def __init__(
        self,
        node: Any,
        message_type: Any,
        topic: str,
        callback: Callable[[Any, bool], None],  # called with each message, and whether it came over a latched topic
        *,
        depth: int,
        resources: ExitStack,
        latched: bool = False,  # follow the durability as well
        # Makes a subscription of a type, a topic, a callback and a QoS; by default `node.create_subscription`.
        subscribe: Callable[[Any, str, Any, QoSProfile], Any] | None = None,
    ) -> None:
        self._node = node
        self._create = subscribe or node.create_subscription
        self._type = message_type
        self.topic = node.resolve_topic_name(topic)
        self._callback, self._depth, self._follows_durability = callback, depth, latched
        self._subscription: Any = None
        self._offered = ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE
        self._look()  # first: what comes while one subscription takes the place of another is lost
        if self._subscription is None:
            self._subscribe()
        resources.callback(self._unsubscribe)
        dds.steady_timer(node, LOOK_PERIOD_S, self._look, resources)

    def _look(self) -> None:
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return  # as before: it may come back
        offered = common_offer([publisher.qos_profile for publisher in publishers])
        if not self._follows_durability:
            offered = offered[0], DurabilityPolicy.VOLATILE
        if offered != self._offered:
            self._offered = offered
            self._unsubscribe()
            self._subscribe()
            reliable = "reliable" if offered[0] == ReliabilityPolicy.RELIABLE else "best effort"
            latched = ", latched" if offered[1] == DurabilityPolicy.TRANSIENT_LOCAL else ""
            self._node.get_logger().info(f"{self.topic}: subscribed as its publishers offer it: {reliable}{latched}")

    def _subscribe(self) -> None:
        reliability, durability = self._offered
        latched = durability == DurabilityPolicy.TRANSIENT_LOCAL
        qos = QoSProfile(depth=self._depth, reliability=reliability, durability=durability)
        self._subscription = self._create(self._type, self.topic, lambda message: self._callback(message, latched), qos)

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None


def common_offer(offers: Sequence[Any]) -> tuple[Any, Any]:
    """The strictest reliability and durability that match all of the offered QoS profiles, at least one."""
    reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
    latched = reliable and all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
    return (
        ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def noted_subscription(
    node: Any, message_type: Any, topic: str, callback: Any, qos: QoSProfile, record: InputRecord
) -> Any:
    """Subscribe, and note what the middleware says of the subscription."""

    def on_incompatible_qos(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        record.incompatible[topic] = policy
        node.get_logger().warning(
            f"a publisher on {topic} offers another {policy} than this node asks for, so nothing arrives from it; "
            "see parameter image.qos"
        )

    def on_message_lost(event: Any) -> None:
        record.lost[topic] = event.total_count

    events = SubscriptionEventCallbacks(incompatible_qos=on_incompatible_qos, message_lost=on_message_lost)
    try:
        return node.create_subscription(message_type, topic, callback, qos, event_callbacks=events)
    except UnsupportedEventTypeError:  # a middleware that does not tell
        return node.create_subscription(message_type, topic, callback, qos)
