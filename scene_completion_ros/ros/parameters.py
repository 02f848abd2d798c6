"""The node's parameters: one schema that declares them, reads them and documents them.

`python -m scene_completion_ros.ros.parameters` prints the table of the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.encoder import EngineName

ImageTransport = Literal["raw", "compressed"]
ImageQos = Literal["sensor_data", "reliable"]


def _parameter(default: Any, description: str, *, choices: Any = None, bounds: tuple[int, int] | None = None) -> Any:
    metadata = {"description": description, "choices": get_args(choices), "bounds": bounds}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class NodeParameters:
    """Values of all parameters. They are read once, at start: changing one needs a new start of the node."""

    bundle: str = _parameter("", "Folder of the student bundle; empty takes the bundle that comes with the package.")
    engine: EngineName = _parameter(
        "auto", "What runs the encoder; `auto` takes the best one installed.", choices=EngineName
    )
    threads: int = _parameter(0, "Threads of the encoder and of the voxel query; 0 takes all cores.", bounds=(0, 256))
    image_transport: ImageTransport = _parameter(
        "raw",
        "`raw` subscribes to `image` (sensor_msgs/Image), `compressed` to `image/compressed` "
        "(sensor_msgs/CompressedImage).",
        choices=ImageTransport,
    )
    image_qos: ImageQos = _parameter(
        "sensor_data",
        "Reliability asked of the image publisher: `sensor_data` (best effort) hears every publisher, `reliable` only "
        "reliable ones, but loses nothing to them.",
        choices=ImageQos,
    )
    rectified: bool = _parameter(
        False,
        "The image is already rectified: the projection matrix P of the CameraInfo holds, its distortion does not.",
    )
    grid_file: str = _parameter(
        "",
        "YAML of another voxel grid (`origin`, `voxel_size`, `shape`, `grid_from_camera`); "
        "empty takes the grid of the bundle.",
    )
    extrapolate: bool = _parameter(False, "Also complete voxels outside the camera's view.")


def declare_parameters(node: Any) -> NodeParameters:
    """Declare every parameter on an rclpy node and read its value.

    Args:
        node: rclpy.node.Node, or anything with its `declare_parameter`.

    Returns:
        The values, overridden by the parameter file and the command line.

    Raises:
        SceneCompletionError: A value has another type, lies outside its range or is none of the choices.
    """
    from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    values: dict[str, Any] = {}
    for entry in fields(NodeParameters):
        descriptor = ParameterDescriptor(description=entry.metadata["description"], read_only=True)
        choices, bounds = entry.metadata["choices"], entry.metadata["bounds"]
        if choices:
            descriptor.additional_constraints = f"one of {', '.join(choices)}"
        if bounds:
            descriptor.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1], step=1)]
        try:
            values[entry.name] = node.declare_parameter(entry.name, entry.default, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise SceneCompletionError(
                str(error),
                where=f"parameter {entry.name}",
                cure=f"It must be {_kind(entry.default)}: {_range_text(entry)}",
            ) from error
        if choices and values[entry.name] not in choices:
            raise SceneCompletionError(
                f"{values[entry.name]!r} is not allowed",
                where=f"parameter {entry.name}",
                cure=f"Choose one of {', '.join(choices)}",
            )
    return NodeParameters(**values)


def markdown_table() -> str:
    """All parameters as a Markdown table, for the documentation."""
    lines = ["| parameter | type | default | range | meaning |", "|---|---|---|---|---|"]
    for entry in fields(NodeParameters):
        default = str(entry.default).lower() if isinstance(entry.default, bool) else entry.default
        shown = f"`{default}`" if default != "" else "empty"
        cells = (f"`{entry.name}`", _kind(entry.default), shown, _range_text(entry), entry.metadata["description"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _kind(default: object) -> str:
    return {"str": "string", "int": "integer", "bool": "boolean"}[type(default).__name__]


def _range_text(entry: Any) -> str:
    if entry.metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in entry.metadata["choices"])
    bounds = entry.metadata["bounds"]
    return f"{bounds[0]} to {bounds[1]}" if bounds else "any"


if __name__ == "__main__":
    print(markdown_table(), end="")
