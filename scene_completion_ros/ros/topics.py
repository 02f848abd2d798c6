"""Topics of the node: each is one entry here, of which publishers are made; docs/topics.md explains them.

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
    latched: bool = False  # the publisher is transient local: late readers that ask for it get the last message


_topics: dict[str, TopicSpec] = {}


def _topic(name: str, type_name: str, direction: Direction = "out", *, latched: bool = False) -> str:
    _topics[name] = TopicSpec(name, type_name, direction, latched)
    return name


_CLOUD, _IMAGE, _TEXT = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Image", "std_msgs/msg/String"
_INFO = "sensor_msgs/msg/CameraInfo"

# The values of `~/debug/processing_time`, in milliseconds. `total` is image array to voxels. `latency` is arrival of
# the image message to publication of its voxels, waiting included.
STAGES = ("decode", "resample", "encode", "query", "march", "assemble", "label", "total", "publish", "latency")

IMAGE = _topic("image", _IMAGE, "in")  # with `image.transport: raw`, and the next one with `compressed`
_topic(f"{IMAGE}/compressed", "sensor_msgs/msg/CompressedImage", "in")
CAMERA_INFO = _topic("camera_info", _INFO, "in")
VOCABULARY = _topic("~/vocabulary", _TEXT, "in")
QUERY = _topic("~/query", _TEXT, "in")

VOXELS = _topic("~/voxels", _CLOUD)
LEGEND = _topic("~/legend", _TEXT, latched=True)
DEPTH = _topic("~/depth/image", _IMAGE)
DEPTH_CAMERA_INFO = _topic("~/depth/camera_info", _INFO)
OCCUPANCY_GRID = _topic("~/occupancy_grid", "nav_msgs/msg/OccupancyGrid", latched=True)
ELEVATION = _topic("~/elevation", _CLOUD)
OBSTACLES = _topic("~/obstacles", _CLOUD)
CLEARING = _topic("~/clearing", _CLOUD)
FREE_SPACE = _topic("~/free_space", _CLOUD)
VOXEL_GRID = _topic("~/voxel_grid", _IMAGE)
VOXEL_GRID_INFO = _topic("~/voxel_grid/info", _TEXT, latched=True)
MATCHES = _topic("~/query/matches", _CLOUD)
PHRASES = _topic("~/query/phrases", _TEXT, latched=True)
DIAGNOSTICS = _topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
DROPPED = _topic("~/debug/dropped", _TEXT)
PROCESSING_TIME = _topic("~/debug/processing_time", "diagnostic_msgs/msg/DiagnosticArray")
_topic("/clock", "rosgraph_msgs/msg/Clock", "in")  # with `use_sim_time: true`
# What every managed node has.
_topic("~/transition_event", "lifecycle_msgs/msg/TransitionEvent")
_topic("/rosout", "rcl_interfaces/msg/Log", latched=True)
_topic("/parameter_events", "rcl_interfaces/msg/ParameterEvent")

# All topics, those of every managed node included.
TOPICS = tuple(_topics.values())


def topic_spec(name: str) -> TopicSpec:
    """The entry of a topic, by its name."""
    return _topics[name]


def default_name(name: str) -> str:
    """Full name of a topic as the node has it without namespace and remappings."""
    return name if name.startswith("/") else f"/{name}".replace("/~", f"/{NODE_NAME}")
