"""What the launch files have in common, without launch: names, and parameters that were given."""

from __future__ import annotations

from collections.abc import Mapping

from scene_completion_ros.ros.parameters.schema import SCHEMA
from scene_completion_ros.ros.topics import NODE_NAME


def full_node_name(namespace: str) -> str:
    """Full name of the completion node in a namespace, which may be empty."""
    inner = namespace.strip("/")
    return f"/{inner}/{NODE_NAME}" if inner else f"/{NODE_NAME}"


def given_parameters(given: Mapping[str, str], *names: str) -> dict[str, bool | str]:
    """Parameters of the node with launch arguments of the same name; empty ones stay as the parameter file says."""
    booleans = {spec.name for spec in SCHEMA if spec.type_name == "boolean"}
    return {name: given[name] == "true" if name in booleans else given[name] for name in names if given[name]}


def simulated_time(given: str, bag: str) -> dict[str, bool]:
    """The parameter `use_sim_time` where it was given, or follows from a recording that is played with its time."""
    return {"use_sim_time": given != "false"} if given or bag else {}
