"""Topics of the node: each is one entry here, from which publishers and docs/topics.md are made.

It needs no ROS. Names are those without namespace and remappings; a constant is the name of its topic.
"""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["in", "out"]
NODE_NAME = "scene_completion"


@dataclass(frozen=True)
class TopicSpec:
    """A topic of the node."""

    name: str  # its name; `~` is the full name of the node
    type_name: str  # its type, such as `sensor_msgs/msg/Image`
    direction: Direction  # whether the node reads or writes it
    meaning: str = ""  # what it is, in a few words; empty for what every node has
    latched: bool = False  # the publisher is transient local: late readers that ask for it get the last message
    # The parameter and its value, such as `image.transport: raw`, without which the topic is not there.
    only_with: str = ""


_topics: dict[str, TopicSpec] = {}


def _in(name: str, type_name: str, meaning: str, *, only_with: str = "") -> str:
    _topics[name] = TopicSpec(name, type_name, "in", meaning, only_with=only_with)
    return name


def _out(name: str, type_name: str, meaning: str = "", *, latched: bool = False) -> str:
    _topics[name] = TopicSpec(name, type_name, "out", meaning, latched)
    return name


_CLOUD, _IMAGE, _TEXT = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Image", "std_msgs/msg/String"
_INFO = "sensor_msgs/msg/CameraInfo"

# The values of `~/debug/processing_time`, in milliseconds. `total` is image array to voxels. `latency` is arrival of
# the image message to publication of its voxels, waiting included.
STAGES = ("decode", "resample", "encode", "query", "march", "assemble", "label", "total", "publish", "latency")


IMAGE = _in("image", _IMAGE, "the images; best effort by default", only_with="image.transport: raw")
_in(
    f"{IMAGE}/compressed",
    "sensor_msgs/msg/CompressedImage",
    "the images; best effort by default",
    only_with="image.transport: compressed",
)
CAMERA_INFO = _in("camera_info", _INFO, "with every image, or once and latched")
VOCABULARY = _in("~/vocabulary", _TEXT, "what classes there are from now on: phrases, or JSON; empty: as by parameter")
QUERY = _in("~/query", _TEXT, "what is looked for in all images from now on: phrases, or JSON; empty: nothing")

VOXELS = _out("~/voxels", _CLOUD, "the occupied voxels, with stamp and frame of the image")
LEGEND = _out(
    "~/legend",
    _TEXT,
    "once, and with every vocabulary: JSON with `class_names` and `class_colours` by label",
    latched=True,
)
DEPTH = _out("~/depth/image", _IMAGE, "32FC1: metres along the optical axis, from the same voxels")
DEPTH_CAMERA_INFO = _out("~/depth/camera_info", _INFO, "calibration of the depth")
OCCUPANCY_GRID = _out(
    "~/occupancy_grid", "nav_msgs/msg/OccupancyGrid", "the ground ahead: occupied, free, unknown", latched=True
)
ELEVATION = _out(
    "~/elevation", _CLOUD, "the ground ahead as a regular grid of points, with the standard deviation of their height"
)
OBSTACLES = _out("~/obstacles", _CLOUD, "occupied voxels without road, pavement and the like")
CLEARING = _out("~/clearing", _CLOUD, "ends of rays on which, beyond ten voxels, all was seen free")
FREE_SPACE = _out("~/free_space", _CLOUD, "cubes that were seen free throughout")
VOXEL_GRID = _out("~/voxel_grid", _IMAGE, "every voxel, one byte each")
VOXEL_GRID_INFO = _out(
    "~/voxel_grid/info", _TEXT, "once: JSON with the meaning and the place of the bytes", latched=True
)
MATCHES = _out("~/query/matches", _CLOUD, "with a query: the voxels that answer it, with their scores")
PHRASES = _out("~/query/phrases", _TEXT, "JSON: the phrases of the query, by number", latched=True)
DIAGNOSTICS = _out(
    "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "what is wrong and what to do about it, in every state"
)
DROPPED = _out("~/debug/dropped", _TEXT, "JSON: a notice for every dropped image")
PROCESSING_TIME = _out(
    "~/debug/processing_time",
    "diagnostic_msgs/msg/DiagnosticArray",
    f"with the stamp of the voxels: milliseconds that {', '.join(STAGES)} took, and the scale by motion",
)
_in("/clock", "rosgraph_msgs/msg/Clock", "the time", only_with="use_sim_time: true")
# What every managed node has.
_out("~/transition_event", "lifecycle_msgs/msg/TransitionEvent")
_out("/rosout", "rcl_interfaces/msg/Log", latched=True)
_out("/parameter_events", "rcl_interfaces/msg/ParameterEvent")

# The services, which every managed node has.
SERVICES = (
    "~/change_state",
    "~/get_state",
    "~/get_available_states",
    "~/get_available_transitions",
    "~/get_transition_graph",
    "~/describe_parameters",
    "~/get_parameters",
    "~/get_parameter_types",
    "~/list_parameters",
    "~/set_parameters",
    "~/set_parameters_atomically",
    "~/get_type_description",
)
# All topics, those of every managed node included.
TOPICS = tuple(_topics.values())


def topic_spec(name: str) -> TopicSpec:
    """The entry of a topic, by its name."""
    return _topics[name]


def default_name(name: str) -> str:
    """Full name of a topic as the node has it without namespace and remappings."""
    return name if name.startswith("/") else f"/{name}".replace("/~", f"/{NODE_NAME}")
