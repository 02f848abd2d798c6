"""Start the completion node for one camera, and with it RViz and a recording if wanted."""

import shlex

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from scene_completion_ros.ros.dds import missing_profile
from scene_completion_ros.ros.launching.rviz_config import Shown, is_optical
from scene_completion_ros.ros.launching.settings import (
    bag_play_command,
    full_node_name,
    given_parameters,
    rviz_arguments,
    simulated_time,
)
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE, NODE_NAME

PACKAGE = "scene_completion_ros"
ARGUMENTS = {
    "image_topic": ("/camera/image_raw", "Image topic, without /compressed"),
    "camera_info_topic": ("/camera/camera_info", "CameraInfo of that image"),
    "image_transport": (
        "",
        "raw, or compressed, which subscribes to image_topic/compressed; empty leaves it to params_file",
    ),
    "bundle": ("", "Folder of the student bundle; empty leaves it to params_file"),
    "autostart": ("", "false leaves the node unconfigured for its manager; empty leaves it to params_file"),
    "use_sim_time": (
        "",
        "Time from /clock; empty: true where there is a bag, otherwise left to params_file",
    ),
    "namespace": ("", "Namespace of the node and of its outputs"),
    "log_level": ("info", "debug, info, warn or error"),
    "bag": ("", "Recording that `ros2 bag play` plays to the node with its time on /clock; see also replay.launch.py"),
    "bag_arguments": ("--delay 5", "Further arguments of `ros2 bag play`, such as: --loop --rate 0.5"),
    "rviz": ("false", "Start RViz as well"),
    "rviz_config": (
        "",
        "Configuration of RViz, as it is; empty: the shipped one, with the topics given here",
    ),
    "fixed_frame": (
        "camera_optical_frame",
        "Fixed frame of RViz: the frame of the image, or any other that tf connects with it",
    ),
}
CHOICES = {
    "image_transport": ["", "raw", "compressed"],
    "autostart": ["", "true", "false"],
    "use_sim_time": ["", "true", "false"],
    "log_level": ["debug", "info", "warn", "error"],
    "rviz": ["true", "false"],
}


def processes(context: LaunchContext) -> list[Node | ExecuteProcess]:
    """The node, and what was asked for beside it."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    sim_time = simulated_time(given["use_sim_time"], given["bag"])
    overrides = given_parameters(given, "image_transport", "bundle", "autostart") | sim_time
    started: list[Node | ExecuteProcess] = [
        Node(
            package=PACKAGE,
            executable="scene_completion_node",
            name=NODE_NAME,
            namespace=given["namespace"],
            output="screen",
            parameters=[LaunchConfiguration("params_file"), *([overrides] if overrides else [])],
            remappings=[(IMAGE, given["image_topic"]), (CAMERA_INFO, given["camera_info_topic"])],
            ros_arguments=["--log-level", given["log_level"]],
        )
    ]
    if given["bag"]:
        started.append(
            ExecuteProcess(
                cmd=bag_play_command(given["bag"], shlex.split(given["bag_arguments"])),
                name="bag_play",
                output="screen",
            )
        )
    if given["rviz"] == "true":
        shown = Shown(
            fixed_frame=given["fixed_frame"],
            optical=is_optical(given["fixed_frame"]),
            node=full_node_name(given["namespace"]),
            image_topics={"": given["image_topic"]},
            compressed=given["image_transport"] == "compressed",
        )
        share = FindPackageShare(PACKAGE).perform(context)
        started.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="scene_completion_rviz",
                output="screen",
                arguments=rviz_arguments(given["rviz_config"], share, shown),
                parameters=[sim_time] if sim_time else [],
            )
        )
    return started


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=CHOICES.get(name))
        for name, (default, description) in ARGUMENTS.items()
    ]
    arguments.append(
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "scene_completion.yaml"]),
            description="Parameters of the node",
        )
    )
    environment = [SetEnvironmentVariable(name, value) for name, value in missing_profile().items()]
    return LaunchDescription([*arguments, *environment, OpaqueFunction(function=processes)])
