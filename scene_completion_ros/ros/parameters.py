"""The schema of the node's parameters, from which all else is made; it needs no ROS.

`parameters.declared` declares and checks them on a running node, `read_parameters` reads those of a parameter file for
any namespace. `docs/parameters.md` and `config/scene_completion.yaml` hold them, too.
"""

import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.bundle import AUTO, shipped_students
from scene_completion_ros.inference.encoder import EngineName
from scene_completion_ros.ros.topics import NODE_NAME
from scene_completion_ros.untrusted_files import read_yaml, shown

ImageTransport = Literal["raw", "compressed"]
ImageQos = Literal["sensor_data", "reliable"]
OutputQos = Literal["reliable", "sensor_data"]
ScaleSource = Literal["off", "odometry", "corners"]
PathKind = Literal["file", "student", "text bank"]
SHIPPED = "shipped"  # the text bank of the student bundle, as parameter `vocabulary`
LONGEST_PATH = 4095
# What parameters are grouped by: `image_qos` of `NodeParameters` is `image.qos` for everybody else.
GROUPS = ("image", "sync", "grid", "transform", "odometry", "scale", "camera", "obstacle")
ParameterValue = bool | int | float | str

# What `ros2 param describe` calls the types.
TYPE_NAMES: dict[type, str] = {bool: "boolean", int: "integer", float: "double", str: "string"}


@dataclass(frozen=True)
class ParameterSpec:
    """What is known of one parameter."""

    field: str  # the field of `NodeParameters` that holds its value
    default: ParameterValue  # its default, which also decides the type
    meaning: str  # a sentence or two, with units
    choices: tuple[str, ...] = ()  # the only values of a string; empty allows any
    bounds: tuple[float, float] | None = None  # smallest and largest value of a number; None allows any finite one
    # What a string names that must exist; where the default is empty, an empty one names nothing.
    path: PathKind | None = None
    live: bool = False  # whether it may be changed while the node runs

    @property
    def name(self) -> str:
        """What ROS calls it: the field, with a dot after its group."""
        group, _, rest = self.field.partition("_")
        return f"{group}.{rest}" if rest and group in GROUPS else self.field

    @property
    def type_name(self) -> str:
        """The type as `ros2 param describe` calls it."""
        return TYPE_NAMES[type(self.default)]

    @property
    def allowed(self) -> str:
        """The allowed values in words, such as "0 to 256"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.bounds:
            return f"{self.bounds[0]} to {self.bounds[1]}"
        if self.path == "student":
            return f"{', '.join((str(self.default), *shipped_students()))}, or an existing folder"
        if self.path == "text bank":
            return f"{SHIPPED}, an existing file, or empty"
        if self.path:
            return f"an existing {self.path}" + (", or empty" if self.default == "" else "")
        return "true or false" if isinstance(self.default, bool) else "any"

    def problem(self, value: object) -> str | None:
        """What is wrong with a value and what would be right, or None where it is allowed."""
        if type(value) is not type(self.default):
            kind = TYPE_NAMES.get(type(value), type(value).__name__)
            hint = ", written with a decimal point" if isinstance(self.default, float) else ""
            return f"{shown(value)} is of type {kind}; it must be of type {self.type_name}{hint}: {self.allowed}"
        if isinstance(value, str):
            return self._text_problem(value)
        if isinstance(value, float) and not math.isfinite(value):
            return f"{value} is not finite; allowed is {self.allowed}"
        if isinstance(value, int | float) and self.bounds and not self.bounds[0] <= value <= self.bounds[1]:
            return f"{value} lies outside of {self.allowed}"
        return None

    def _text_problem(self, value: str) -> str | None:
        if self.choices and value not in self.choices:
            return f"{shown(value)} is not allowed; choose {self.allowed}"
        if self.path and len(value) > LONGEST_PATH:
            return f"{shown(value)} has {len(value)} characters, which no path has; name {self.allowed}"
        named = value == self.default or (self.path == "student" and value in ("", *shipped_students()))
        named = named or (self.path == "text bank" and value == SHIPPED)
        problem = _path_problem(Path(value), self.path) if self.path and not named else None
        return f"{problem}; name {self.allowed}" if problem else None


def _path_problem(path: Path, kind: PathKind) -> str | None:
    noun = "file" if kind in ("file", "text bank") else "folder"
    try:
        exists = path.is_file() if noun == "file" else path.is_dir()
    except (OSError, ValueError):  # a folder above it may not be entered, or it is none
        exists = False
    if not exists:
        return f"there is no {noun} {path.absolute()}"
    if not os.access(path, os.R_OK if noun == "file" else os.R_OK | os.X_OK):
        return f"the {noun} {path.absolute()} may not be read by this user"
    return None


def _parameter(default: ParameterValue, meaning: str, *, choices: Any = None, **rules: Any) -> Any:
    """A field with what `ParameterSpec` says of it; `choices`: a `Literal`."""
    return field(default=default, metadata={"meaning": meaning, "choices": get_args(choices), **rules})


_live = partial(_parameter, live=True)


@dataclass(frozen=True)
class NodeParameters:
    """Values of all parameters at one moment."""

    bundle: str = _parameter(
        AUTO,
        "The student: the folder of its bundle, or the name of one that comes with the package. `auto` is "
        "`kitti_student`, as in the commands.",
        path="student",
    )
    engine: EngineName = _parameter(
        "auto",
        "The software that runs the student's graphs, and on a GPU all else, too. `auto` takes TensorRT if there are a "
        "GPU and all that TensorRT needs. Otherwise, or when that fails, `auto` "
        "takes the best engine installed for the CPU, in bfloat16 if the CPU has it and the bundle passed the gate "
        "for it. `tensorrt` never falls back to the CPU.",
        choices=EngineName,
    )
    threads: int = _live(0, "Threads of the encoder and of the voxel query; 0 takes all cores.", bounds=(0, 256))
    occupancy_threshold: float = _parameter(
        0.0,
        "Calibrated probability from which a voxel counts as occupied; 0 takes the thresholds of the bundle, of which "
        "obstacles may have a lower one. A lower value finds more obstacles, and more false ones.",
        bounds=(0.0, 1.0),
    )
    vocabulary: str = _live(
        "",
        "Text bank whose classes replace the bundle's own labels. `~/vocabulary` and `~/query` may use its phrases. "
        "`shipped` is the bank in the bundle. Empty: the bundle's labels, with the phrases of its bank. A change takes "
        "effect within half a second.",
        path="text bank",
    )
    image_transport: ImageTransport = _parameter(
        "raw",
        "`raw` subscribes to `image` (sensor_msgs/Image), `compressed` to `image/compressed` "
        "(sensor_msgs/CompressedImage).",
        choices=ImageTransport,
    )
    image_qos: ImageQos = _parameter(
        "sensor_data",
        "Reliability of the image subscription. `sensor_data` (best effort) matches every publisher. "
        "`reliable` matches reliable publishers only, but loses none of their images.",
        choices=ImageQos,
    )
    image_rectified: bool = _live(
        False,
        "The image is already rectified: the projection matrix P of the CameraInfo holds, its distortion does not.",
    )
    sync_timeout: float = _live(
        0.2,
        "Seconds that an image waits for transforms of its stamp. Without transforms it is dropped.",
        bounds=(0.0, 10.0),
    )
    grid_file: str = _parameter(
        "",
        "YAML file of another voxel grid, with `origin`, `voxel_size`, `shape` and `grid_from_camera`. The last one "
        "means nothing with `grid.frame`. Empty takes the grid of the bundle.",
        path="file",
    )
    grid_frame: str = _parameter(
        "",
        "Frame whose origin and axes the voxel grid takes, such as `base_link`. The node completes and publishes "
        "voxels in it. Empty: the grid is aligned with the camera, and voxels are published in the frame of the "
        "image.",
    )
    transform_tolerance: float = _live(
        0.0, "Seconds for which the last transform still holds. The node extrapolates nothing else.", bounds=(0.0, 10.0)
    )
    odometry_topics: str = _parameter(
        "",
        "Topics of nav_msgs/Odometry, with commas between them, which take the place of tf. `/odom=base_link` names "
        "the frame of poses without `child_frame_id`.",
    )
    odometry_frame: str = _parameter(
        "odom",
        "Frame with z up in which the robot moves without jumps, for `scale.from`: `odom` of REP 105, not `map`.",
    )
    scale_from: ScaleSource = _live(
        "corners",
        "`odometry`: depths of `street` and `room`, and the plane of the road, follow from how the camera moved in "
        "`odometry.frame`, where that is known. `corners`: single corners also get a depth by that, where the pose of "
        "the image has come when the network has seen it. `off`: neither.",
        choices=ScaleSource,
    )
    scale_wait: bool = _live(
        False,
        "An image waits for the pose of its stamp, up to `sync.timeout`, so that a replay scales alike each time.",
    )
    base_frame: str = _live(
        "",
        "Frame of `~/occupancy_grid`, with z up, that stands on the ground. Empty: `grid.frame`, or without one "
        "the frame of the image. That last map is for RViz, not for Nav2.",
    )
    camera_height: float = _live(
        0.0,
        "Height of the camera above the ground, metres, for a camera that stands above the origin of `base_frame` or "
        "`grid.frame` and looks along their x. 0: `odometry.topics`, or without them tf, say where it is. Without both "
        "frames, 0 assumes for `~/occupancy_grid` the height of the cameras that the student was trained with.",
        bounds=(0.0, 100.0),
    )
    camera_pitch: float = _live(0.0, "Degrees by which the camera looks down.", bounds=(-90.0, 90.0))
    obstacle_min_height: float = _live(
        0.3,
        "Lowest height above the ground, metres, at which voxels are obstacles in `~/occupancy_grid`.",
        bounds=(-10.0, 50.0),
    )
    obstacle_max_height: float = _live(
        2.0, "Largest height above the ground, metres, at which they are.", bounds=(-10.0, 50.0)
    )
    obstacle_ignored_classes: str = _live(
        "auto",
        "Classes that are no obstacles, with commas between them; `auto` takes road, parking, sidewalk, terrain, "
        "other-ground, or floor, where the bundle has them.",
    )
    output_qos: OutputQos = _parameter(
        "reliable",
        "Reliability of the voxels, the depth, and the clouds and grids for planners. `reliable` serves every reader. "
        "`sensor_data` (best effort) waits for no reader, but a reliable reader gets nothing. "
        "RViz is one by default. Latched topics stay reliable.",
        choices=OutputQos,
    )
    autostart: bool = _parameter(
        True,
        "The node configures and activates itself when it starts. With `false` it waits in the state `unconfigured` "
        "for its manager.",
    )

    def __post_init__(self) -> None:
        for name in ("grid_frame", "odometry_frame", "base_frame"):  # ROS 1 had a slash before frames, tf2 refuses it
            object.__setattr__(self, name, getattr(self, name).strip("/"))


SCHEMA: tuple[ParameterSpec, ...] = tuple(
    ParameterSpec(field=entry.name, default=getattr(NodeParameters, entry.name), **entry.metadata)
    for entry in fields(NodeParameters)
)  # all parameters of the node, in the order in which they are declared and documented


def names_in(value: str) -> tuple[str, ...]:
    """The names in a string with commas between them."""
    return tuple(name for part in value.split(",") if (name := part.strip()))


def unknown_parameter(name: str) -> str:
    """The warning for an unknown name, with the known ones."""
    return f"parameter {name} is unknown and has no effect: known are {', '.join(spec.name for spec in SCHEMA)}"


_VALUES = "ros__parameters"
_OF_RCLPY = ("use_sim_time", "start_type_description_service", "qos_overrides")


def read_parameters(path: Path, *, without: Collection[str] = ()) -> dict[str, object]:
    """The values of a parameter file for this node.

    Raises SceneCompletionError where it cannot be read, has nothing for this node, or a name or a value that is none.
    `path`: YAML, as `ros2 run … --params-file` takes it. Sections of `/**` and of nodes of this name in any namespace
    count, later ones more. Groups may be nested or written with dots. What rclpy itself declares is left out.
    `without`: names to leave out unchecked.
    """
    where = str(path)
    sections = list(_sections(read_yaml(path, SceneCompletionError, cure="Give a parameter file of ROS 2"), ""))
    of_node = [values for name, values in sections if name.rpartition("/")[2] in (NODE_NAME, "*", "**")]
    if not of_node:
        what = f"has no parameters of the node {NODE_NAME}, but of {', '.join(name for name, _ in sections) or 'none'}"
        cure = f"Write them under /**: {_VALUES}:, as in config/scene_completion.yaml"
        raise SceneCompletionError(what, where=where, cure=cure)
    specs = {spec.name: spec for spec in SCHEMA}
    found: dict[str, object] = {}
    for name, value in (pair for values in of_node for pair in _flat(values)):
        if name in without or name.partition(".")[0] in _OF_RCLPY:
            continue
        spec = specs.get(name)
        if spec is None:
            raise SceneCompletionError(unknown_parameter(name), where=where)
        if problem := spec.problem(value):
            raise SceneCompletionError(f"parameter {name}: {problem}", where=where)
        found[name] = value
    return found


def _flat(values: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Names with dots, and values, of nested groups of parameters."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{group}{key}.")
        else:
            yield f"{group}{key}", value


def _sections(tree: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(tree, Mapping):
        return
    for key, below in tree.items():
        if key == _VALUES:
            if isinstance(below, Mapping):
                yield name or "/", below
        else:
            yield from _sections(below, f"{name}/{str(key).strip('/')}")
