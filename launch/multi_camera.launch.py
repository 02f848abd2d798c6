"""Several cameras: one node that fuses them in one grid, or a node for each in a namespace of its own."""

import shlex
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.ros.dds import missing_profile
from scene_completion_ros.ros.launching.multi_camera import (
    LaunchedCamera,
    for_each,
    fused_parameters,
    fused_remappings,
    launched_cameras,
)
from scene_completion_ros.ros.launching.rviz_config import Shown, is_optical
from scene_completion_ros.ros.launching.settings import (
    bag_play_command,
    full_node_name,
    rviz_arguments,
    simulated_time,
)
from scene_completion_ros.ros.topics import NODE_NAME

PACKAGE = "scene_completion_ros"
ARGUMENTS = {
    "cameras": ("front,left,right", "Names of the cameras, with commas between them"),
    "image_topics": ("/{camera}/image_raw", "Their image topics, without /compressed: one with {camera}, or one each"),
    "camera_info_topics": ("/{camera}/camera_info", "Their CameraInfo: one with {camera}, or one each"),
    "fuse": ("true", "One node fuses all in one grid; false: each camera has a node in a namespace of its name"),
    "params_file": (
        "",
        "Parameters of the nodes; empty: multi_camera.yaml, without fuse scene_completion.yaml",
    ),
    "grid_file": ("", "Grid of the fused voxels; empty: multi_camera_grid.yaml, around the robot"),
    "grid_frame": ("", "Frame that this grid is attached to; empty leaves it to params_file"),
    "extrinsics_file": ("", "File that says where the cameras are; empty leaves it to params_file, by default to tf"),
    "image_transport": ("", "raw, or compressed, which appends /compressed to the topics; empty: as params_file says"),
    "bundle": ("", "Folder of the student bundle; empty leaves it to params_file"),
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
CHOICES = {
    "fuse": ["true", "false"],
    "image_transport": ["", "raw", "compressed"],
    "autostart": ["", "true", "false"],
    "use_sim_time": ["", "true", "false"],
    "log_level": ["debug", "info", "warn", "error"],
    "rviz": ["true", "false"],
}
FOR_EACH = ("params_file", "image_transport", "bundle", "autostart", "log_level", "rviz", "rviz_config")
"""Arguments that `scene_completion.launch.py` takes over for every camera."""


def processes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node or nodes, and what was asked for beside them."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    cameras = launched_cameras(given["cameras"], given["image_topics"], given["camera_info_topics"])
    sim_time = simulated_time(given["use_sim_time"], given["bag"])
    share = FindPackageShare(PACKAGE).perform(context)
    together = given["fuse"] == "true"
    started = fused(cameras, given, sim_time, share) if together else one_each(cameras, given, sim_time, share)
    if given["bag"]:
        command = bag_play_command(given["bag"], shlex.split(given["bag_arguments"]))
        started.append(ExecuteProcess(cmd=command, name="bag_play", output="screen"))
    return started


def fused(
    cameras: list[LaunchedCamera], given: dict[str, str], sim_time: dict[str, bool], share: str
) -> list[LaunchDescriptionEntity]:
    """One node for all cameras, and RViz."""
    config = Path(share) / "config"
    given["grid_file"] = given["grid_file"] or str(config / "multi_camera_grid.yaml")
    started = [
        Node(
            package=PACKAGE,
            executable="scene_completion_node",
            name=NODE_NAME,
            namespace=given["namespace"],
            output="screen",
            parameters=[
                given["params_file"] or str(config / "multi_camera.yaml"),
                fused_parameters(cameras, given) | sim_time,
            ],
            remappings=fused_remappings(cameras),
            ros_arguments=["--log-level", given["log_level"]],
        )
    ]
    if given["rviz"] == "true":
        frame = given["fixed_frame"] or given["grid_frame"] or "base_link"
        shown = Shown(
            fixed_frame=frame,
            optical=is_optical(frame),
            node=full_node_name(given["namespace"]),
            image_topics={camera.name: camera.image_topic for camera in cameras},
            compressed=given["image_transport"] == "compressed",
            voxel_size=read_grid(given["grid_file"])[0].voxel_size,
        )
        rviz = Node(
            package="rviz2",
            executable="rviz2",
            name="scene_completion_rviz",
            output="screen",
            arguments=rviz_arguments(given["rviz_config"], share, shown),
            parameters=[sim_time] if sim_time else [],
        )
        started.append(rviz)
    return started


def one_each(
    cameras: list[LaunchedCamera], given: dict[str, str], sim_time: dict[str, bool], share: str
) -> list[LaunchDescriptionEntity]:
    """`scene_completion.launch.py` for every camera, each in a scope of its own."""
    given["params_file"] = given["params_file"] or str(Path(share) / "config" / "scene_completion.yaml")
    names = [camera.name for camera in cameras]
    frames = for_each(names, given["fixed_frame"] or "{camera}_optical_frame", "fixed_frame")
    arguments = {name: given[name] for name in FOR_EACH}
    arguments["use_sim_time"] = {True: "true", False: "false", None: ""}[sim_time.get("use_sim_time")]
    return [
        GroupAction(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(Path(share) / "launch" / "scene_completion.launch.py")),
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
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=CHOICES.get(name))
        for name, (default, description) in ARGUMENTS.items()
    ]
    environment = [SetEnvironmentVariable(name, value) for name, value in missing_profile().items()]
    return LaunchDescription([*arguments, *environment, OpaqueFunction(function=processes)])
