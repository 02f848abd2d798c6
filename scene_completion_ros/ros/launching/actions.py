"""What the launch file starts; the only module that needs launch and launch_ros."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from scene_completion_ros.ros.dds import missing_profile
from scene_completion_ros.ros.topics import NODE_NAME

PACKAGE = "scene_completion_ros"
# Arguments of the launch file: default and description.
ARGUMENTS: dict[str, tuple[Any, str]] = {
    "image_topic": ("/camera/image_raw", "Image topic, without /compressed"),
    "camera_info_topic": ("/camera/camera_info", "CameraInfo of that image"),
    "image_transport": ("", "raw, or compressed, of image_topic/compressed; empty leaves it to params_file"),
    "fixed_frame": ("camera_optical_frame", "Fixed frame of RViz: that of the image, or any that tf connects with it"),
    "params_file": ("", "Parameters of the node; empty: config/scene_completion.yaml"),
    "bundle": ("", "Student bundle: folder or name; empty leaves it to params_file"),
    "autostart": ("", "false leaves the node unconfigured for its manager; empty leaves it to params_file"),
    "use_sim_time": ("", "Time from /clock; empty: true where there is a bag, otherwise left to params_file"),
    "namespace": ("", "Namespace of the node and of its outputs"),
    "log_level": ("info", "debug, info, warn or error"),
    "bag": ("", "Recording that `ros2 bag play` plays to the node with its time on /clock"),
    "bag_arguments": ("--delay 5", "Further arguments of `ros2 bag play`, such as: --loop --rate 0.5"),
    "rviz": ("false", "Start RViz as well"),
    "rviz_config": ("", "Configuration of RViz; empty: config/scene_completion.rviz"),
}
CHOICES = {
    "image_transport": ["", "raw", "compressed"],
    "autostart": ["", "true", "false"],
    "use_sim_time": ["", "true", "false"],
    "log_level": ["debug", "info", "warn", "error"],
    "rviz": ["true", "false"],
}


def described(processes: Callable[[LaunchContext, dict[str, str]], Sequence[Any]]) -> LaunchDescription:
    """A launch description: the arguments, the profile of Fast DDS, and what follows from the arguments.

    `processes`: called with the values of all arguments; what to start.
    """
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=CHOICES.get(name))
        for name, (default, description) in ARGUMENTS.items()
    ]

    def started(context: LaunchContext) -> list[Any]:
        return list(processes(context, {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}))

    environment = [SetEnvironmentVariable(name, value) for name, value in missing_profile().items()]
    return LaunchDescription([*declared, *environment, OpaqueFunction(function=started)])


def shared_folder(context: LaunchContext) -> Path:
    """Folder in which the package's `config` and `launch` are installed."""
    return Path(FindPackageShare(PACKAGE).perform(context))


def completion_node(
    given: Mapping[str, str], file: str, parameters: Mapping[str, Any], remappings: Sequence[tuple[str, str]]
) -> Node:
    """The node; `parameters` override its parameter file."""
    return Node(
        package=PACKAGE,
        executable="scene_completion_node",
        name=NODE_NAME,
        namespace=given["namespace"],
        output="screen",
        parameters=[file, *([dict(parameters)] if parameters else [])],
        remappings=remappings,
        ros_arguments=["--log-level", given["log_level"]],
    )


def bag_player(given: Mapping[str, str]) -> list[ExecuteProcess]:
    """`ros2 bag play` of the recording that was given, with its time on /clock; nothing where none was."""
    if not given["bag"]:
        return []
    command = ["ros2", "bag", "play", given["bag"], "--clock", *shlex.split(given["bag_arguments"])]
    return [ExecuteProcess(cmd=command, name="bag_play", output="screen")]


def rviz(
    given: Mapping[str, str], share: Path, remappings: Sequence[tuple[str, str]], sim_time: Mapping[str, bool]
) -> list[Node]:
    """RViz, with the given or the shipped configuration, where it was asked for; `remappings`: of `topics_of_rviz`."""
    if given["rviz"] != "true":
        return []
    config = given["rviz_config"] or str(share / "config" / "scene_completion.rviz")
    node = Node(
        package="rviz2",
        executable="rviz2",
        name="scene_completion_rviz",
        output="screen",
        arguments=["-d", config, "-f", given["fixed_frame"]],
        parameters=[dict(sim_time)] if sim_time else [],
        remappings=remappings,
    )
    return [node]
