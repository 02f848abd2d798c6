"""What the launch files have in common: parameters that were given, simulated time, and how to start the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scene_completion_ros.ros.launching.rviz_config import LIVE, Shown, write_adapted
from scene_completion_ros.ros.parameters.schema import SCHEMA
from scene_completion_ros.ros.topics import NODE_NAME


def full_node_name(namespace: str) -> str:
    """Full name of the completion node in a namespace, which may be empty."""
    inner = namespace.strip("/")
    return f"/{inner}/{NODE_NAME}" if inner else f"/{NODE_NAME}"


def given_parameters(given: Mapping[str, str], *names: str) -> dict[str, bool | str]:
    """Parameters of the node that have launch arguments of the same name; empty ones stay as the parameter file says.

    Args:
        given: Launch arguments.
        names: Those that are parameters.
    """
    booleans = {spec.name for spec in SCHEMA if spec.type_name == "boolean"}
    return {name: given[name] == "true" if name in booleans else given[name] for name in names if given[name]}


def simulated_time(given: str, bag: str) -> dict[str, bool]:
    """The parameter `use_sim_time` where it was given, or follows from a recording that is played with its time."""
    return {"use_sim_time": given != "false"} if given or bag else {}


def bag_play_command(bag: str, further: Sequence[str]) -> list[str]:
    """The command of ROS 2 that plays a recording with its time on /clock."""
    return ["ros2", "bag", "play", bag, "--clock", *further]


def rviz_arguments(own: str, share: str, shown: Shown) -> list[str]:
    """Arguments of RViz.

    Args:
        own: Configuration to take as it is; empty takes the shipped one, adapted.
        share: Folder in which the package's `config` is installed.
        shown: What to show.

    Raises:
        SceneCompletionError: The shipped configuration cannot be used.
    """
    config = own or str(write_adapted(Path(share) / LIVE, shown))
    return ["-d", config, "-f", shown.fixed_frame]
