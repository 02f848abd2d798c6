"""Subscriptions that note what the middleware says of them: publishers that do not match, messages that it lost."""

from __future__ import annotations

from typing import Any

from rclpy.qos import QoSProfile, qos_policy_name_from_kind

from scene_completion_ros.ros.health.input_record import InputRecord

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


def noted_subscription(
    node: Any, message_type: Any, topic: str, callback: Any, qos: QoSProfile, record: InputRecord
) -> Any:
    """Subscribe, and note what the middleware says of the subscription.

    Args:
        node: The rclpy node.
        message_type: Type of the messages.
        topic: The resolved topic.
        callback: Called with each message.
        qos: What is asked for.
        record: Where events are noted.

    Returns:
        The rclpy subscription.
    """

    def on_incompatible_qos(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        record.incompatible[topic] = policy
        node.get_logger().warning(
            f"a publisher on {topic} offers another {policy} than this node asks for, so nothing of it arrives; "
            "see parameter image_qos"
        )

    def on_message_lost(event: Any) -> None:
        record.lost[topic] = event.total_count

    events = SubscriptionEventCallbacks(incompatible_qos=on_incompatible_qos, message_lost=on_message_lost)
    try:
        return node.create_subscription(message_type, topic, callback, qos, event_callbacks=events)
    except UnsupportedEventTypeError:  # a middleware that does not tell
        return node.create_subscription(message_type, topic, callback, qos)
