"""Topics and services of the node, as one table: what the README lists, and what tests compare the running node with.

It needs no ROS. Names are those without namespace and remappings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scene_completion_ros.ros import topics
from scene_completion_ros.ros.topics import STAGES, stage_topic

Direction = Literal["in", "out"]


@dataclass(frozen=True)
class TopicSpec:
    """A topic of the node.

    Attributes:
        name: Its name; `~` is the full name of the node.
        type_name: Its type, such as `sensor_msgs/msg/Image`.
        direction: Whether the node reads or writes it.
        meaning: What it is, in a few words; empty for what every node has.
        latched: The publisher is transient local: late readers that ask for it get the last message.
        only_with: The parameter and its value, such as `publish_markers: true`, without which the topic is not there.
    """

    name: str
    type_name: str
    direction: Direction
    meaning: str = ""
    latched: bool = False
    only_with: str = ""


@dataclass(frozen=True)
class ServiceSpec:
    """A service of the node.

    Attributes:
        name: Its name; `~` is the full name of the node.
        type_name: Its type, such as `std_srvs/srv/Trigger`.
        meaning: What it does, in a few words; empty for what every node has.
    """

    name: str
    type_name: str
    meaning: str = ""


_CLOUD, _IMAGE = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Image"

_NODE_TOPICS = (
    TopicSpec(topics.IMAGE, _IMAGE, "in", "the images; best effort by default", only_with="image_transport: raw"),
    TopicSpec(
        f"{topics.IMAGE}/compressed",
        "sensor_msgs/msg/CompressedImage",
        "in",
        "the images; best effort by default",
        only_with="image_transport: compressed",
    ),
    TopicSpec(topics.CAMERA_INFO, "sensor_msgs/msg/CameraInfo", "in", "with every image, or once and latched"),
    TopicSpec(topics.VOXELS, _CLOUD, "out", "the occupied voxels, with stamp and frame of the image"),
    TopicSpec(
        topics.LEGEND,
        "std_msgs/msg/String",
        "out",
        "once: JSON with `class_names` and `class_colours` by label",
        latched=True,
    ),
    TopicSpec(topics.DEPTH, _IMAGE, "out", "32FC1: metres along the optical axis, from the same voxels"),
    TopicSpec(topics.DEPTH_CAMERA_INFO, "sensor_msgs/msg/CameraInfo", "out", "calibration of the depth"),
    TopicSpec(
        topics.OCCUPANCY_GRID,
        "nav_msgs/msg/OccupancyGrid",
        "out",
        "the ground ahead: occupied, free, unknown",
        latched=True,
    ),
    TopicSpec(topics.OBSTACLES, _CLOUD, "out", "occupied voxels without road, pavement and the like"),
    TopicSpec(topics.CLEARING, _CLOUD, "out", "ends of rays on which, beyond `clearing_blind_zone`, all was seen free"),
    TopicSpec(topics.FREE_SPACE, _CLOUD, "out", "cubes that were seen free throughout"),
    TopicSpec(topics.VOXEL_GRID, _IMAGE, "out", "every voxel, one byte each"),
    TopicSpec(
        topics.VOXEL_GRID_INFO,
        "std_msgs/msg/String",
        "out",
        "once: JSON that says what the bytes mean and where they lie",
        latched=True,
    ),
    TopicSpec(
        topics.MARKERS,
        "visualization_msgs/msg/Marker",
        "out",
        "the occupied voxels nearest to the camera, as cubes",
        only_with="publish_markers: true",
    ),
    TopicSpec(
        topics.DIAGNOSTICS,
        "diagnostic_msgs/msg/DiagnosticArray",
        "out",
        "what is wrong and what to do about it, in every state",
    ),
    TopicSpec(topics.DROPPED, "std_msgs/msg/String", "out", "JSON: a notice for every dropped image"),
    *(
        TopicSpec(stage_topic(stage), "std_msgs/msg/Float64", "out", f"milliseconds that the stage {stage} took")
        for stage in STAGES
    ),
    TopicSpec("/clock", "rosgraph_msgs/msg/Clock", "in", "the time", only_with="use_sim_time: true"),
)
_COMMON_TOPICS = (
    TopicSpec("~/transition_event", "lifecycle_msgs/msg/TransitionEvent", "out"),
    TopicSpec("/rosout", "rcl_interfaces/msg/Log", "out", latched=True),
    TopicSpec("/parameter_events", "rcl_interfaces/msg/ParameterEvent", "out"),
)
TOPICS: tuple[TopicSpec, ...] = _NODE_TOPICS + _COMMON_TOPICS
"""All topics, those of every managed node included. `cameras` has `<name>/image` and so on instead of the one's."""

SERVICES: tuple[ServiceSpec, ...] = (
    ServiceSpec(topics.SAVE, "std_srvs/srv/Trigger", "saves the last result as .ply and .npz in `save_folder`"),
    ServiceSpec(
        topics.RESET,
        "std_srvs/srv/Trigger",
        "forgets stamps, transforms, times, earlier images and the last result",
    ),
    ServiceSpec(topics.SET_ENABLED, "std_srvs/srv/SetBool", "stops completing images, and goes on"),
    *(
        ServiceSpec(f"~/{name}", f"lifecycle_msgs/srv/{type_name}")
        for name, type_name in (
            ("change_state", "ChangeState"),
            ("get_state", "GetState"),
            ("get_available_states", "GetAvailableStates"),
            ("get_available_transitions", "GetAvailableTransitions"),
            ("get_transition_graph", "GetAvailableTransitions"),
        )
    ),
    *(
        ServiceSpec(f"~/{name}", f"rcl_interfaces/srv/{type_name}")
        for name, type_name in (
            ("describe_parameters", "DescribeParameters"),
            ("get_parameters", "GetParameters"),
            ("get_parameter_types", "GetParameterTypes"),
            ("list_parameters", "ListParameters"),
            ("set_parameters", "SetParameters"),
            ("set_parameters_atomically", "SetParametersAtomically"),
        )
    ),
    ServiceSpec("~/get_type_description", "type_description_interfaces/srv/GetTypeDescription"),
)
"""All services, those of every managed node included."""
