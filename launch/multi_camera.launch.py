"""Several cameras: one node that fuses them in one grid."""

from typing import Any

from launch import LaunchContext, LaunchDescription

from scene_completion_ros.ros.launching.actions import bag_player, completion_node, described, rviz, shared_folder
from scene_completion_ros.ros.launching.settings import (
    full_node_name,
    given_parameters,
    launched_cameras,
    simulated_time,
    topics_of_rviz,
)
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE

ARGUMENTS = {
    "cameras": ("front,left,right", "Names of the cameras, with commas between them"),
    "image_topics": ("/{camera}/image_raw", "Their image topics, without /compressed: one with {camera}, or one each"),
    "camera_info_topics": ("/{camera}/camera_info", "Their CameraInfo: one with {camera}, or one each"),
    "grid_file": ("", "Grid of the fused voxels; empty: multi_camera_grid.yaml, around the robot"),
    "grid_frame": ("", "Frame that this grid is attached to; empty leaves it to params_file"),
    "extrinsics_file": ("", "File with the poses of the cameras; empty leaves it to params_file, by default to tf"),
    "image_transport": ("", "raw, or compressed, which appends /compressed to the topics; empty: that of params_file"),
    "fixed_frame": ("", "Fixed frame of RViz; empty: grid_frame, or base_link"),
}


def processes(context: LaunchContext, given: dict[str, str]) -> list[Any]:
    """The node, and what was asked for next to it."""
    cameras = launched_cameras(given["cameras"], given["image_topics"], given["camera_info_topics"])
    sim_time, share = simulated_time(given["use_sim_time"], given["bag"]), shared_folder(context)
    config = share / "config"
    given["grid_file"] = given["grid_file"] or str(config / "multi_camera_grid.yaml")
    file = given["params_file"] or str(config / "multi_camera.yaml")
    overrides = {"cameras": ", ".join(cameras), **sim_time} | given_parameters(
        given, "image_transport", "bundle", "autostart", "grid_file", "grid_frame", "extrinsics_file"
    )
    if given["extrinsics_file"]:  # then transforms are those of that file alone
        overrides["transform.source"] = "parameters"
    remappings = [(f"{name}/{IMAGE}", image) for name, (image, _) in cameras.items()]
    remappings += [(f"{name}/{CAMERA_INFO}", camera_info) for name, (_, camera_info) in cameras.items()]
    node = completion_node(given, file, overrides, remappings)
    shown, (image, _) = next(iter(cameras.items()))
    topics = topics_of_rviz(full_node_name(given["namespace"]), image, shown)
    frame = given["fixed_frame"] or given["grid_frame"] or "base_link"
    return [node, *rviz(given, share, frame, topics, sim_time), *bag_player(given)]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    return described(ARGUMENTS, processes)
