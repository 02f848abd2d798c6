"""Publishers that live as long as the node is configured."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Protocol

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

OUTPUT_DEPTH = 5  # messages kept for slow reliable readers
BEST_EFFORT_QOS = QoSProfile(depth=OUTPUT_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Create(Protocol):
    """Creates a publisher of a type on a topic."""

    def __call__(self, message_type: Any, topic: str, qos: QoSProfile | int | None = None) -> Any:
        """The publisher."""


def creator(node: Any, resources: ExitStack, default: QoSProfile | int = OUTPUT_DEPTH) -> Create:
    """Creates publishers on a node, with a quality of service by default; closing `resources` destroys them."""

    def create(message_type: Any, topic: str, qos: QoSProfile | int | None = None) -> Any:
        qos = default if qos is None else qos
        publisher = node.create_publisher(message_type, topic, qos)
        resources.callback(node.destroy_publisher, publisher)
        return publisher

    return create


def subscribed(publisher: Any) -> bool:
    """Whether anybody subscribed to it."""
    return bool(publisher.get_subscription_count())
