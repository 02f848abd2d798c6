"""What the launch files start, without launch: names and topics of the cameras, parameters that were given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters.schema import SCHEMA, names_in
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE, NODE_NAME


def full_node_name(namespace: str) -> str:
    """Full name of the completion node in a namespace, which may be empty."""
    inner = namespace.strip("/")
    return f"/{inner}/{NODE_NAME}" if inner else f"/{NODE_NAME}"


def given_parameters(given: Mapping[str, str], *names: str) -> dict[str, bool | str]:
    """Parameters of the node that launch arguments give; an empty one stays as the parameter file says.

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


@dataclass(frozen=True)
class LaunchedCamera:
    """One camera of several."""

    name: str  # its name, also that of its namespace where each has a node of its own
    image_topic: str  # its image topic, without transport
    camera_info_topic: str  # the calibration of these images


def launched_cameras(names: str, image_topics: str, camera_info_topics: str) -> list[LaunchedCamera]:
    """The cameras that launch arguments name.

    Raises SceneCompletionError where there are no names, some name is there twice, or there are more or fewer topics.
    `image_topics`: one topic in which `{camera}` stands for the name, or a topic a camera, with commas between them;
    `camera_info_topics`: likewise.
    """
    cameras = names_in(names)
    if not cameras or len(set(cameras)) < len(cameras):
        what = f"{names!r} names no cameras, or one of them twice"
        cure = "Write their names, with commas between them, such as cameras:=front,left,right"
        raise SceneCompletionError(what, where="launch argument cameras", cure=cure)
    images = for_each(cameras, image_topics, "image_topics")
    camera_infos = for_each(cameras, camera_info_topics, "camera_info_topics")
    return [LaunchedCamera(*each) for each in zip(cameras, images, camera_infos, strict=True)]


def for_each(cameras: Sequence[str], value: str, argument: str) -> list[str]:
    """A launch argument for every camera. Raises SceneCompletionError where there are more or fewer.

    `value`: one value in which `{camera}` stands for the name, or one a camera, with commas between them; `argument`:
    name of the argument, for the error.
    """
    given = names_in(value)
    if len(given) == 1 and PLACEHOLDER in given[0]:
        return [given[0].replace(PLACEHOLDER, camera) for camera in cameras]
    if len(given) != len(cameras):
        what = f"{value!r} does not give one value for each of the cameras {', '.join(cameras)}"
        cure = f"Write one for each, with commas between them, or one in which {PLACEHOLDER} is the name"
        raise SceneCompletionError(what, where=f"launch argument {argument}", cure=cure)
    return list(given)


def fused_parameters(cameras: Sequence[LaunchedCamera], given: Mapping[str, str]) -> dict[str, bool | str]:
    """Parameters of a node for several cameras; with `extrinsics_file`, transforms are those of that file alone."""
    parameters = given_parameters(
        given, "image_transport", "bundle", "autostart", "grid_file", "grid_frame", "extrinsics_file"
    )
    if given["extrinsics_file"]:
        parameters["transform.source"] = "parameters"
    return {"cameras": ", ".join(camera.name for camera in cameras), **parameters}


def fused_remappings(cameras: Sequence[LaunchedCamera]) -> list[tuple[str, str]]:
    """Topics of that node -> topics of the cameras."""
    return [
        pair
        for camera in cameras
        for pair in (
            (f"{camera.name}/{IMAGE}", camera.image_topic),
            (f"{camera.name}/{CAMERA_INFO}", camera.camera_info_topic),
        )
    ]
