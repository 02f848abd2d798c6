"""What the launch file starts, without launch: given parameters, and what RViz shows."""

from collections.abc import Mapping

from scene_completion_ros.ros.parameters import SCHEMA
from scene_completion_ros.ros.topics import IMAGE, NODE_NAME, TOPICS, default_name


def full_node_name(namespace: str) -> str:
    """Full name of the completion node in a namespace, which may be empty."""
    inner = namespace.strip("/")
    return f"/{inner}/{NODE_NAME}" if inner else f"/{NODE_NAME}"


def given_parameters(given: Mapping[str, str], *names: str) -> dict[str, bool | str]:
    """Parameters of the node that launch arguments give; an empty one leaves the parameter file as it is.

    `given`: launch arguments. They are called like the parameters, but with `_` where those have a dot. `names`: those
    to look at.
    """
    specs = [spec for spec in SCHEMA if spec.field in names and given[spec.field]]
    return {
        spec.name: given[spec.field] == "true" if spec.type_name == "boolean" else given[spec.field] for spec in specs
    }


def simulated_time(given: str, bag: str) -> dict[str, bool]:
    """The parameter `use_sim_time` where it was given, or follows from a recording that is played with its time."""
    return {"use_sim_time": given != "false"} if given or bag else {}


def topics_of_rviz(node: str, image: str) -> list[tuple[str, str]]:
    """What the topics of the shipped configuration of RViz are called in this start, as remappings.

    `node`: full name of the completion node; `image`: the image topic that is shown, without transport. RViz takes the
    transport from the name before it remaps that: each transport has a display.
    """
    own = {default_name(spec.name): spec.name.replace("~", node) for spec in TOPICS if spec.name.startswith("~/")}
    return [(f"/{IMAGE}", image), (f"/{IMAGE}/compressed", f"{image}/compressed"), *own.items()]
