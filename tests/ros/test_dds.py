"""The Fast DDS profile, and what it is for."""

from pathlib import Path

from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import PointCloud2

from scene_completion_ros.ros import dds
from scene_completion_ros.voxels.cloud import cloud_array_from_message, voxels_to_cloud_array
from tests.ros.graph import Graph, NodeUnderTest
from tests.ros.voxel_samples import some_voxels


def test_shipped_profile_is_chosen_where_none_is() -> None:
    environment: dict[str, str] = {"PATH": "/bin"}
    assert dds.use_shipped_profile(environment)
    assert environment[dds.profile_variable()] == str(dds.profile_path())
    assert len(environment) == 2


def test_60_000_points_reach_a_best_effort_reader_in_another_process(tmp_path: Path) -> None:
    graph = Graph()
    clouds = graph.collect(PointCloud2, "/cloud", qos_profile_sensor_data)
    publisher = NodeUnderTest([str(Path(__file__).with_name("publish_cloud.py")), "60000"], tmp_path / "log")
    try:
        arrived = graph.until(lambda: len(clouds) >= 10 or publisher.process.poll() is not None)
    finally:
        publisher.close()
        graph.close()
    assert arrived and len(clouds) >= 10, f"{len(clouds)} arrived\n{publisher.log}"  # without the profile: none or one
    received = cloud_array_from_message(clouds[-1])
    assert received.tobytes() == voxels_to_cloud_array(some_voxels(60000)).tobytes()
