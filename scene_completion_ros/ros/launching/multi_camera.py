"""What `multi_camera.launch.py` starts: names and topics of the cameras, parameters of the node that fuses them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.launching.settings import given_parameters
from scene_completion_ros.ros.parameters.schema import names_in
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE

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
    """Parameters of the one node that fuses several cameras, beside those of its parameter file.

    `given`: launch arguments; with an `extrinsics_file`, transforms are those of that file alone.
    """
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
