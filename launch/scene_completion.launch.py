"""Start the completion node for one camera, and RViz with it if wanted."""

import os

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from scene_completion_ros.ros.dds import OLD_PROFILE_VARIABLE, PROFILE_VARIABLE, use_shipped_profile
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE, NODE_NAME

PACKAGE = "scene_completion_ros"


def completion_node(context: LaunchContext) -> list[Node]:
    """The node; a parameter that is an empty launch argument stays as the parameter file has it."""
    image_transport = LaunchConfiguration("image_transport").perform(context)
    autostart = LaunchConfiguration("autostart").perform(context)
    overrides: list[dict[str, str | bool]] = []
    overrides += [{"image_transport": image_transport}] if image_transport else []
    overrides += [{"autostart": autostart == "true"}] if autostart else []
    return [
        Node(
            package=PACKAGE,
            executable="scene_completion_node",
            name=NODE_NAME,
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            parameters=[LaunchConfiguration("params_file"), *overrides],
            remappings=[
                (IMAGE, LaunchConfiguration("image_topic")),
                (CAMERA_INFO, LaunchConfiguration("camera_info_topic")),
            ],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    config = PathJoinSubstitution([FindPackageShare(PACKAGE), "config"])
    namespace = LaunchConfiguration("namespace")
    image_topic = LaunchConfiguration("image_topic")
    arguments = [
        DeclareLaunchArgument(
            "image_topic", default_value="/camera/image_raw", description="Image topic, without /compressed"
        ),
        DeclareLaunchArgument(
            "camera_info_topic", default_value="/camera/camera_info", description="CameraInfo of that image"
        ),
        DeclareLaunchArgument(
            "image_transport",
            default_value="",
            choices=["", "raw", "compressed"],
            description="compressed subscribes to image_topic/compressed; empty leaves it to params_file",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([config, "scene_completion.yaml"]),
            description="Parameters of the node",
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="",
            choices=["", "true", "false"],
            description="false leaves the node unconfigured for its manager; empty leaves it to params_file",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and of its outputs"),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            description="debug, info, warn or error",
            choices=["debug", "info", "warn", "error"],
        ),
        DeclareLaunchArgument(
            "rviz", default_value="false", choices=["true", "false"], description="Start RViz as well"
        ),
        DeclareLaunchArgument(
            "fixed_frame",
            default_value="camera_optical_frame",
            description="Fixed frame of RViz: the frame of the image, or any other that tf connects with it",
        ),
    ]
    profile: dict[str, str] = {}
    if not (os.environ.get(PROFILE_VARIABLE) or os.environ.get(OLD_PROFILE_VARIABLE)):
        use_shipped_profile(profile)
    environment = [SetEnvironmentVariable(name, value) for name, value in profile.items()]
    # The RViz file names the topics of a node without namespace; an empty namespace makes the second rule the identity.
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="scene_completion_rviz",
        output="screen",
        arguments=[
            "-d",
            PathJoinSubstitution([config, "scene_completion.rviz"]),
            "-f",
            LaunchConfiguration("fixed_frame"),
        ],
        remappings=[
            (f"/{IMAGE}", image_topic),
            (f"/{NODE_NAME}/voxels", PathJoinSubstitution(["/", namespace, NODE_NAME, "voxels"])),
            (f"/{NODE_NAME}/depth/image", PathJoinSubstitution(["/", namespace, NODE_NAME, "depth", "image"])),
        ],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return LaunchDescription([*arguments, *environment, OpaqueFunction(function=completion_node), rviz])
