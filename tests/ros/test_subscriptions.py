"""A subscription that follows its publishers as they come and go."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from scene_completion_ros.ros.waiting import AdaptiveSubscription
from tests.ros.graph import Graph

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
LATCHED, VOLATILE = DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE


def offer(reliability: Any = RELIABLE, durability: Any = VOLATILE) -> QoSProfile:
    return QoSProfile(depth=5, reliability=reliability, durability=durability)


@pytest.fixture
def graphs() -> Iterator[tuple[Graph, Any]]:
    """One that publishes, and a node of another context that listens."""
    graph = Graph()
    listener = rclpy.create_node("listener", namespace=graph.namespace, context=graph.context)
    graph.spin_with(listener)
    yield graph, listener
    listener.destroy_node()
    graph.close()


def test_it_follows_its_publishers(graphs: tuple[Graph, Any]) -> None:
    graph, listener = graphs
    heard: list[tuple[str, bool]] = []
    with ExitStack() as resources:
        AdaptiveSubscription(
            listener,
            String,
            "words",
            lambda message, latched: heard.append((message.data, latched)),
            depth=5,
            resources=resources,
            latched=True,
        )

        def asked() -> list[tuple[Any, Any]]:
            found = graph.node.get_subscriptions_info_by_topic(f"{graph.namespace}/words")
            return [(info.qos_profile.reliability, info.qos_profile.durability) for info in found]

        def hears(publisher: Any, word: str, *, latched: bool) -> bool:
            def said() -> bool:
                publisher.publish(String(data=word))
                return graph.until(lambda: (word, latched) in heard, 0.3)

            return graph.until(said)

        assert graph.until(lambda: asked() == [(BEST_EFFORT, VOLATILE)])
        early = graph.node.create_publisher(String, "words", offer(durability=LATCHED))
        early.publish(String(data="before"))
        assert graph.until(lambda: asked() == [(RELIABLE, LATCHED)])
        assert graph.until(lambda: ("before", True) in heard)  # what was said before it was found
        other = graph.node.create_publisher(String, "words", offer(BEST_EFFORT))
        assert graph.until(lambda: asked() == [(BEST_EFFORT, VOLATILE)])
        assert hears(other, "unreliable", latched=False)
        assert hears(early, "both", latched=False)
        graph.node.destroy_publisher(early)
        graph.node.destroy_publisher(other)
        third = graph.node.create_publisher(String, "words", offer())
        assert graph.until(lambda: asked() == [(RELIABLE, VOLATILE)])
        assert hears(third, "reliable", latched=False)
    assert graph.until(lambda: not asked())
