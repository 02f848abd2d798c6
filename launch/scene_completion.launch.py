"""Start the completion node for one camera, and with it RViz and a recording if wanted."""

from typing import Any

from launch import LaunchContext, LaunchDescription

from scene_completion_ros.ros.launching.actions import bag_player, completion_node, described, rviz, shared_folder
from scene_completion_ros.ros.launching.settings import full_node_name, given_parameters, simulated_time, topics_of_rviz
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE


def processes(context: LaunchContext, given: dict[str, str]) -> list[Any]:
    """The node, and what else was asked for."""
    sim_time = simulated_time(given["use_sim_time"], given["bag"])
    overrides = given_parameters(given, "image_transport", "bundle", "autostart") | sim_time
    remappings = [(IMAGE, given["image_topic"]), (CAMERA_INFO, given["camera_info_topic"])]
    share = shared_folder(context)
    file = given["params_file"] or str(share / "config" / "scene_completion.yaml")
    node = completion_node(given, file, overrides, remappings)
    topics = topics_of_rviz(full_node_name(given["namespace"]), given["image_topic"])
    return [node, *bag_player(given), *rviz(given, share, topics, sim_time)]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    return described(processes)
