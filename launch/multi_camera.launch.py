"""Several cameras: one node that fuses them in one grid, or a node for each in a namespace of its own."""

from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.ros.launching.actions import bag_player, completion_node, described, rviz, shared_folder
from scene_completion_ros.ros.launching.settings import (
    LaunchedCamera,
    Shown,
    for_each,
    full_node_name,
    fused_parameters,
    fused_remappings,
    is_optical,
    launched_cameras,
    simulated_time,
)

ARGUMENTS = {
    "cameras": ("front,left,right", "Names of the cameras, with commas between them"),
    "image_topics": ("/{camera}/image_raw", "Their image topics, without /compressed: one with {camera}, or one each"),
    "camera_info_topics": ("/{camera}/camera_info", "Their CameraInfo: one with {camera}, or one each"),
    "fuse": ("true", "One node fuses all in one grid; false: each camera has a node in a namespace of its name"),
    "params_file": ("", "Parameters of the nodes; empty: multi_camera.yaml, without fuse scene_completion.yaml"),
    "grid_file": ("", "Grid of the fused voxels; empty: multi_camera_grid.yaml, around the robot"),
    "grid_frame": ("", "Frame that this grid is attached to; empty leaves it to params_file"),
    "extrinsics_file": ("", "File that says where the cameras are; empty leaves it to params_file, by default to tf"),
    "image_transport": ("", "raw, or compressed, which appends /compressed to the topics; empty: as params_file says"),
    "bundle": ("", "Student bundle: folder or name; empty leaves it to params_file"),
    "autostart": ("", "false leaves nodes unconfigured for their manager; empty leaves it to params_file"),
    "use_sim_time": ("", "Time from /clock; empty: true where there is a bag, otherwise left to params_file"),
    "namespace": ("", "Namespace of all nodes and of their outputs"),
    "log_level": ("info", "debug, info, warn or error"),
    "bag": ("", "Recording that `ros2 bag play` plays to the nodes with its time on /clock"),
    "bag_arguments": ("--delay 5", "Further arguments of `ros2 bag play`, such as: --loop --rate 0.5"),
    "rviz": ("false", "Start RViz as well; without fuse one for each camera"),
    "rviz_config": ("", "Configuration of RViz, as it is; empty: the shipped one, with the topics given here"),
    "fixed_frame": (
        "",
        "Fixed frame of RViz; empty: grid_frame, or base_link; without fuse {camera}_optical_frame, or one each",
    ),
}
FOR_EACH = ("params_file", "image_transport", "bundle", "autostart", "log_level", "rviz", "rviz_config")
"""Arguments that `scene_completion.launch.py` takes over for every camera."""


def processes(context: LaunchContext, given: dict[str, str]) -> list[Any]:
    """The node or nodes, and what was asked for beside them."""
    cameras = launched_cameras(given["cameras"], given["image_topics"], given["camera_info_topics"])
    start = fused if given["fuse"] == "true" else one_each
    started = start(cameras, given, simulated_time(given["use_sim_time"], given["bag"]), shared_folder(context))
    return [*started, *bag_player(given)]


def fused(cameras: list[LaunchedCamera], given: dict[str, str], sim_time: dict[str, bool], share: Path) -> list[Any]:
    """One node for all cameras, and RViz."""
    config = share / "config"
    given["grid_file"] = given["grid_file"] or str(config / "multi_camera_grid.yaml")
    file = given["params_file"] or str(config / "multi_camera.yaml")
    node = completion_node(given, file, fused_parameters(cameras, given) | sim_time, fused_remappings(cameras))
    if given["rviz"] != "true":
        return [node]
    frame = given["fixed_frame"] or given["grid_frame"] or "base_link"
    shown = Shown(
        fixed_frame=frame,
        optical=is_optical(frame),
        node=full_node_name(given["namespace"]),
        image_topics={camera.name: camera.image_topic for camera in cameras},
        compressed=given["image_transport"] == "compressed",
        voxel_size=read_grid(given["grid_file"])[0].voxel_size,
    )
    return [node, rviz(given, share, shown, sim_time)]


def one_each(cameras: list[LaunchedCamera], given: dict[str, str], sim_time: dict[str, bool], share: Path) -> list[Any]:
    """`scene_completion.launch.py` for every camera, each in a scope of its own."""
    given["params_file"] = given["params_file"] or str(share / "config" / "scene_completion.yaml")
    names = [camera.name for camera in cameras]
    frames = for_each(names, given["fixed_frame"] or "{camera}_optical_frame", "fixed_frame")
    arguments = {name: given[name] for name in FOR_EACH}
    arguments["use_sim_time"] = {True: "true", False: "false", None: ""}[sim_time.get("use_sim_time")]
    return [
        GroupAction(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(share / "launch" / "scene_completion.launch.py")),
                    launch_arguments={
                        **arguments,
                        "namespace": "/".join(part for part in (given["namespace"].rstrip("/"), camera.name) if part),
                        "image_topic": camera.image_topic,
                        "camera_info_topic": camera.camera_info_topic,
                        "fixed_frame": frame,
                        "bag": "",
                    }.items(),
                )
            ]
        )
        for camera, frame in zip(cameras, frames, strict=True)
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    return described(ARGUMENTS, processes)
