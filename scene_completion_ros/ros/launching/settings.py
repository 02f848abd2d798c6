"""What the launch files have in common, without launch: names, and parameters that were given."""

from collections.abc import Mapping

from scene_completion_ros.ros.parameters.schema import SCHEMA
from scene_completion_ros.ros.topics import NODE_NAME


def full_node_name(namespace: str) -> str:
    """Full name of the completion node in a namespace, which may be empty."""
    inner = namespace.strip("/")
    return f"/{inner}/{NODE_NAME}" if inner else f"/{NODE_NAME}"


def given_parameters(given: Mapping[str, str], *names: str) -> dict[str, bool | str]:
    """Parameters of the node that launch arguments give; an empty one stays as the parameter file says.

    Args:
        given: Launch arguments. They are called like the parameters, but with `_` where those have a dot.
        names: Those to look at.
    """
    specs = [spec for spec in SCHEMA if spec.field in names and given[spec.field]]
    return {
        spec.name: given[spec.field] == "true" if spec.type_name == "boolean" else given[spec.field] for spec in specs
    }


def simulated_time(given: str, bag: str) -> dict[str, bool]:
    """The parameter `use_sim_time` where it was given, or follows from a recording that is played with its time."""
    return {"use_sim_time": given != "false"} if given or bag else {}
