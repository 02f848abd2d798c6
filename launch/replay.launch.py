"""Play a recording through the completion node, with its time on /clock, and RViz beside it if wanted."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.ros.dds import missing_profile
from scene_completion_ros.ros.launching.replay import node_parameters, player_command, recorded_camera
from scene_completion_ros.ros.launching.rviz_config import Shown, is_optical
from scene_completion_ros.ros.launching.settings import full_node_name, rviz_arguments
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE, NODE_NAME

PACKAGE = "scene_completion_ros"
ARGUMENTS = {
    "bag": (None, "Recording: rosbag2 folder, .mcap, .db3, or ROS 1 .bag"),
    "image_topic": ("", "Recorded image topic, with /compressed where it has it; empty takes the only one"),
    "camera_info_topic": ("", "Recorded CameraInfo of these images; empty finds it by the name of the image topic"),
    "bundle": ("", "Student bundle; empty takes the one that is shipped (and that of params_file for the node)"),
    "grid": (
        "",
        "File of the voxel grid, as for grid_file; empty takes the bundle's, for the node params_file's",
    ),
    "namespace": ("", "Namespace of the node and of its outputs"),
    "rate": (
        "",
        "Play in real time, this many times as fast as recorded; empty plays in lock step, without drops",
    ),
    "loop": ("1", "How often to play the recording; 0 until interrupted"),
    "clock": ("100", "Ticks of /clock a second"),
    "also": ("", "Further recorded topics to publish, separated by blanks, such as: /tf /tf_static"),
    "output": ("replay", "Folder for voxels, report and scores; there must be no recording in it"),
    "ground_truth": ("", "Folder to score voxels and depth against"),
    "ground_truth_offset": ("", "Seconds added to the stamps of that folder"),
    "rviz": ("false", "Start RViz as well"),
    "rviz_config": (
        "",
        "Configuration of RViz, as it is; empty: the shipped one, with the recording's topics",
    ),
    "fixed_frame": ("", "Fixed frame of RViz; empty takes the frame of the images"),
}


def processes(context: LaunchContext) -> list[Node | ExecuteProcess]:
    """Node, player and RViz for what the recording holds."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    camera = recorded_camera(given["bag"], given["image_topic"], given["camera_info_topic"])
    node = Node(
        package=PACKAGE,
        executable="scene_completion_node",
        name=NODE_NAME,
        namespace=given["namespace"],
        output="screen",
        parameters=[LaunchConfiguration("params_file"), node_parameters(camera, given["bundle"], given["grid"])],
        remappings=[(IMAGE, camera.image_topic), (CAMERA_INFO, camera.camera_info_topic)],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
    )
    # The recording is over: so is everything else.
    player = ExecuteProcess(
        cmd=player_command(given["bag"], camera, given["namespace"], given),
        name="scene_completion_replay",
        output="screen",
        on_exit=Shutdown(reason="the recording has been played"),
    )
    if given["rviz"] != "true":
        return [node, player]
    frame = given["fixed_frame"] or camera.frame_id
    shown = Shown(
        fixed_frame=frame,
        optical=frame == camera.frame_id or is_optical(frame),
        node=full_node_name(given["namespace"]),
        image_topics={"": camera.image_topic},
        compressed=camera.image_transport == "compressed",
        **({"voxel_size": read_grid(given["grid"])[0].voxel_size} if given["grid"] else {}),
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="scene_completion_rviz",
        output="screen",
        arguments=rviz_arguments(given["rviz_config"], FindPackageShare(PACKAGE).perform(context), shown),
        parameters=[{"use_sim_time": True}],
    )
    return [node, player, rviz]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=description,
            choices=["true", "false"] if name == "rviz" else None,
        )
        for name, (default, description) in ARGUMENTS.items()
    ]
    arguments += [
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "scene_completion.yaml"]),
            description="Parameters of the node",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            description="debug, info, warn or error",
            choices=["debug", "info", "warn", "error"],
        ),
    ]
    environment = [SetEnvironmentVariable(name, value) for name, value in missing_profile().items()]
    return LaunchDescription([*arguments, *environment, OpaqueFunction(function=processes)])
