"""What the launch files start, without launch: cameras and their topics, given parameters, and what RViz shows."""

from collections.abc import Mapping, Sequence

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters import SCHEMA, names_in
from scene_completion_ros.ros.topics import DEPTH, IMAGE, NODE_NAME, TOPICS, default_name, depth_topics


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


PLACEHOLDER = "{camera}"


def launched_cameras(names: str, image_topics: str, camera_info_topics: str) -> dict[str, tuple[str, str]]:
    """Image topic, without transport, and topic of the calibration of each camera that launch arguments name.

    Raises SceneCompletionError where there are no names, some name is there twice, or there are more or fewer topics.
    `image_topics`: one topic in which `{camera}` stands for the name, or a topic a camera, with commas between them;
    `camera_info_topics`: likewise.
    """
    cameras = names_in(names)
    if not cameras or len(set(cameras)) < len(cameras):
        what = f"{names!r} names no cameras, or one of them twice"
        cure = "Write their names, with commas between them, such as cameras:=front,left,right"
        raise SceneCompletionError(what, where="launch argument cameras", cure=cure)
    images = _for_each(cameras, image_topics, "image_topics")
    camera_infos = _for_each(cameras, camera_info_topics, "camera_info_topics")
    return dict(zip(cameras, zip(images, camera_infos, strict=True), strict=True))


def _for_each(cameras: Sequence[str], value: str, argument: str) -> list[str]:
    """The value of a launch argument for every camera."""
    given = names_in(value)
    if len(given) == 1 and PLACEHOLDER in given[0]:
        return [given[0].replace(PLACEHOLDER, camera) for camera in cameras]
    if len(given) != len(cameras):
        what = f"{value!r} does not give one value for each of the cameras {', '.join(cameras)}"
        cure = f"Write one for each, with commas between them, or one in which {PLACEHOLDER} is the name"
        raise SceneCompletionError(what, where=f"launch argument {argument}", cure=cure)
    return list(given)


def topics_of_rviz(node: str, image: str, camera: str = "") -> list[tuple[str, str]]:
    """What the topics of the shipped configuration of RViz are called in this start, as remappings.

    `node`: full name of the completion node; `image`: the image topic that is shown, without transport; `camera`: name
    of its camera, where there are several. RViz takes the transport from the name before it remaps that: each transport
    has a display.
    """
    own = {default_name(spec.name): spec.name.replace("~", node) for spec in TOPICS if spec.name.startswith("~/")}
    own[default_name(DEPTH)] = depth_topics(camera)[0].replace("~", node)
    return [(f"/{IMAGE}", image), (f"/{IMAGE}/compressed", f"{image}/compressed"), *own.items()]
