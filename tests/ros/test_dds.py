"""The Fast DDS profile and what it is for, and a subscription that follows its publishers as they come and go."""

import os
import xml.etree.ElementTree as ElementTree
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from scene_completion_ros.ros import dds
from scene_completion_ros.ros.waiting import AdaptiveSubscription
from scene_completion_ros.voxels.cloud import cloud_array_from_message
from tests.ros.graph import Graph, NodeUnderTest
from tests.voxels.samples import some_voxels, voxels_to_cloud_array


def test_acknowledgements_are_prompt_by_the_shipped_profile_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a replay waited for a heartbeat of Fast DDS before every image, for up to three seconds."""
    writer = ElementTree.parse(dds.profile_path()).find(".//{*}data_writer[@is_default_profile='true']")
    assert writer.findtext(".//{*}heartbeat_period/{*}sec") == "0"
    assert int(writer.findtext(".//{*}heartbeat_period/{*}nanosec") or 0) <= 20_000_000
    for profile, inside in ((str(dds.profile_path()), "1"), ("/home/robot/own.xml", None)):
        monkeypatch.setenv(dds.profile_variable(), profile)
        monkeypatch.delenv(dds.QOS_VARIABLE, raising=False)
        with dds.prompt_acknowledgements():
            assert os.environ.get(dds.QOS_VARIABLE) == inside
        assert dds.QOS_VARIABLE not in os.environ


def test_60_000_points_reach_a_best_effort_reader_in_another_process(graph: Graph, tmp_path: Path) -> None:
    clouds = graph.collect(PointCloud2, "/cloud", qos_profile_sensor_data)
    publisher = NodeUnderTest([str(Path(__file__).with_name("publish_cloud.py")), "60000"], tmp_path / "log")
    try:
        arrived = graph.until(lambda: len(clouds) >= 10 or publisher.process.poll() is not None)
    finally:
        publisher.close()
    assert arrived and len(clouds) >= 10, f"{len(clouds)} arrived\n{publisher.log}"  # without the profile: none or one
    received = cloud_array_from_message(clouds[-1])
    assert received.tobytes() == voxels_to_cloud_array(some_voxels(60000)).tobytes()


RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
LATCHED, VOLATILE = DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE


def offer(reliability: Any = RELIABLE, durability: Any = VOLATILE) -> QoSProfile:
    return QoSProfile(depth=5, reliability=reliability, durability=durability)


def test_it_follows_its_publishers(graph: Graph) -> None:
    heard: list[str] = []
    listener = rclpy.create_node("listener", namespace=graph.namespace, context=graph.context)
    graph.spin_with(listener)
    with ExitStack() as resources:
        AdaptiveSubscription(
            listener, String, "words", lambda message: heard.append(message.data), depth=5, resources=resources
        )

        def asked() -> list[Any]:
            found = graph.node.get_subscriptions_info_by_topic(f"{graph.namespace}/words")
            return [info.qos_profile.reliability for info in found]

        def hears(publisher: Any, word: str) -> bool:
            return graph.repeat(lambda: publisher.publish(String(data=word)), lambda: word in heard)

        assert graph.until(lambda: asked() == [BEST_EFFORT])
        early = graph.node.create_publisher(String, "words", offer(durability=LATCHED))
        assert graph.until(lambda: asked() == [RELIABLE])
        other = graph.node.create_publisher(String, "words", offer(BEST_EFFORT))
        assert graph.until(lambda: asked() == [BEST_EFFORT])
        assert hears(other, "unreliable") and hears(early, "both")
        graph.node.destroy_publisher(early)
        graph.node.destroy_publisher(other)
        third = graph.node.create_publisher(String, "words", offer())
        assert graph.until(lambda: asked() == [RELIABLE])
        assert hears(third, "reliable")
    assert graph.until(lambda: not asked())
    listener.destroy_node()
