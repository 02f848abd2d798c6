"""Publishers that live as long as the node is configured."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Protocol

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

OUTPUT_DEPTH = 5  # messages kept for slow reliable readers
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Create(Protocol):
    """Creates a publisher of a type on a topic."""

    def __call__(self, message_type: Any, topic: str, qos: QoSProfile | int = OUTPUT_DEPTH) -> Any:
        """The publisher."""


def creator(node: Any, resources: ExitStack) -> Create:
    """Creates publishers on a node; closing `resources` destroys them."""

    def create(message_type: Any, topic: str, qos: QoSProfile | int = OUTPUT_DEPTH) -> Any:
        publisher = node.create_publisher(message_type, topic, qos)
        resources.callback(node.destroy_publisher, publisher)
        return publisher

    return create


def subscribed(publisher: Any) -> bool:
    """Whether anybody subscribed to it."""
    return bool(publisher.get_subscription_count())
