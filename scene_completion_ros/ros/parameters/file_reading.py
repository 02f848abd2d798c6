"""Values of the node's parameters from a ROS parameter file, whatever namespace it is written for; needs no ROS."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.removed import removed
from scene_completion_ros.ros.parameters.schema import SCHEMA, nearest_name
from scene_completion_ros.ros.topics import NODE_NAME
from scene_completion_ros.untrusted_files import read_yaml

_VALUES = "ros__parameters"
_OF_RCLPY = ("use_sim_time", "start_type_description_service", "qos_overrides")


def read_parameters(path: Path, *, without: Collection[str] = ()) -> dict[str, object]:
    """What a parameter file says for this node.

    Raises SceneCompletionError where it cannot be read, has nothing for this node, or a name or a value that is none.
    `path`: YAML, as `ros2 run … --params-file` takes it. Sections of `/**` and of nodes of this name in any namespace
    count, later ones more. Groups may be nested or written with dots. What rclpy itself declares is left out.
    `without`: names to leave out unchecked.
    """
    where = str(path)
    document = read_yaml(path, SceneCompletionError, cure="Give a parameter file of ROS 2")
    sections = list(_sections(document, ""))
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
        if spec is None and (sentence := removed("parameter", name)):
            raise SceneCompletionError(sentence, where=where, cure="Take it out of the file")
        if spec is None:
            nearest = nearest_name(name, specs)
            cure = f"Did you mean {nearest}?" if nearest else "See docs/parameters.md"
            raise SceneCompletionError(f"parameter {name} is unknown", where=where, cure=cure)
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
