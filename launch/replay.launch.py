"""Play a recording through the completion node, with its time on /clock, and RViz beside it if wanted."""

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, Shutdown

from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.ros.launching.actions import PARAMETER_FILE, completion_node, described, rviz, shared_folder
from scene_completion_ros.ros.launching.replay import node_parameters, player_command, recorded_camera
from scene_completion_ros.ros.launching.rviz_config import Shown, is_optical
from scene_completion_ros.ros.launching.settings import full_node_name
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE

ARGUMENTS = {
    "bag": (None, "Recording: rosbag2 folder, .mcap, .db3, or ROS 1 .bag"),
    "image_topic": ("", "Recorded image topic, with /compressed where it has it; empty takes the only one"),
    "camera_info_topic": ("", "Recorded CameraInfo of these images; empty finds it by the name of the image topic"),
    "bundle": ("", "Student bundle of node and report; empty takes the default one, and for the node params_file's"),
    "grid": ("", "File of the voxel grid, as for grid_file; empty takes the bundle's, for the node params_file's"),
    "namespace": ("", "Namespace of the node and of its outputs"),
    "rate": ("", "Play in real time, this many times as fast as recorded; empty plays in lock step, without drops"),
    "loop": ("1", "How often to play the recording; 0 until interrupted"),
    "clock": ("100", "Ticks of /clock a second"),
    "also": ("", "Further recorded topics to publish, separated by blanks, such as: /tf /tf_static"),
    "output": ("replay", "Folder for voxels, report and scores; there must be no recording in it"),
    "ground_truth": ("", "Folder to score voxels and depth against"),
    "ground_truth_offset": ("", "Seconds added to the stamps of that folder"),
    "rviz": ("false", "Start RViz as well"),
    "rviz_config": ("", "Configuration of RViz, as it is; empty: the shipped one, with the recording's topics"),
    "fixed_frame": ("", "Fixed frame of RViz; empty takes the frame of the images"),
    "params_file": (PARAMETER_FILE, "Parameters of the node"),
    "log_level": ("info", "debug, info, warn or error"),
}


def processes(context: LaunchContext, given: dict[str, str]) -> list[Any]:
    """Node, player and RViz for what the recording holds."""
    camera = recorded_camera(given["bag"], given["image_topic"], given["camera_info_topic"])
    overrides = node_parameters(camera, given["bundle"], given["grid"])
    remappings = [(IMAGE, camera.image_topic), (CAMERA_INFO, camera.camera_info_topic)]
    node = completion_node(given, given["params_file"], overrides, remappings)
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
    return [node, player, rviz(given, shared_folder(context), shown, {"use_sim_time": True})]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and the processes."""
    return described(ARGUMENTS, processes)
