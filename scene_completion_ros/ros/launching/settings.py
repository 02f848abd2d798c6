"""What the launch files start, without launch: cameras and their topics, given parameters, and what RViz shows.

RViz looks for the transport in the name of an image topic before it remaps that name. So topics are not remapped, but
put into a file for this start, with the names that the window of RViz then shows.
"""

import atexit
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters import SCHEMA, names_in
from scene_completion_ros.ros.topics import IMAGE, NODE_NAME, depth_topics


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


LIVE = Path("config/scene_completion.rviz")
OPTICAL_VIEW, BODY_VIEW = "Behind an optical frame (z forward)", "Behind a body frame (z up)"
GROUND = "Ground"


@dataclass(frozen=True)
class Shown:
    """What RViz is to show."""

    fixed_frame: str
    node: str = f"/{NODE_NAME}"  # full name of the completion node
    # Image topic of every camera, without transport, by the camera's name; the only one has none.
    image_topics: Mapping[str, str] = field(default_factory=lambda: {"": f"/{IMAGE}"})
    compressed: bool = False
    voxel_size: float = 0.2  # edge of a voxel, metres

    @property
    def optical(self) -> bool:
        """Whether that frame is an optical one (x right, y down, z forward) by its name, as REP 103 has it."""
        return "optical" in self.fixed_frame


def adapted(shipped: str, shown: Shown) -> str:
    """The text of `config/scene_completion.rviz` for what runs."""
    document = yaml.safe_load(shipped)
    manager = document["Visualization Manager"]
    manager["Global Options"]["Fixed Frame"] = shown.fixed_frame
    manager["Displays"] = [new for display in manager["Displays"] for new in _adapted_displays(display, shown)]
    name = OPTICAL_VIEW if shown.optical else BODY_VIEW
    (view,) = (view for view in manager["Views"]["Saved"] if view["Name"] == name)
    manager["Views"]["Current"] = deepcopy(view) | {"Name": "Current View"}  # not an alias in the file
    return str(yaml.safe_dump(document, sort_keys=False))


def write_adapted(shipped: Path, shown: Shown) -> Path:
    """Adapt the file `shipped`, see `adapted`, into a temporary one, which is removed when this process ends."""
    text = adapted(shipped.read_text(encoding="utf-8"), shown)
    with tempfile.NamedTemporaryFile("w", prefix="scene_completion_", suffix=".rviz", delete=False) as file:
        file.write(text)
    path = Path(file.name)
    atexit.register(path.unlink, missing_ok=True)
    return path


def _adapted_displays(display: dict[str, Any], shown: Shown) -> Iterator[dict[str, Any]]:
    """One display, or those of all cameras."""
    if display["Name"] == GROUND and not shown.optical:
        display = {**display, "Plane": "XY", "Offset": {"X": 0, "Y": 0, "Z": 0}}
    if display.get("Style") == "Boxes":
        display = {**display, "Size (m)": shown.voxel_size}
    if "Topic" not in display:
        yield display
        return
    topic = display["Topic"]["Value"]
    of_camera = _topics_of_cameras(topic, shown)
    if of_camera is None:
        yield _with_topic(display, topic.replace(f"/{NODE_NAME}/", f"{shown.node}/", 1))
        return
    enabled = display["Enabled"]
    if topic.startswith(f"/{IMAGE}"):
        enabled = shown.compressed == topic.endswith("/compressed")
    for camera, its_topic in of_camera.items():
        name = f"{display['Name']} {camera}".strip()
        yield _with_topic({**display, "Name": name, "Enabled": enabled, "Value": enabled}, its_topic)


def _topics_of_cameras(topic: str, shown: Shown) -> dict[str, str] | None:
    """What a topic of the shipped configuration is for each camera; None where it is one for all of them."""
    if topic in (f"/{IMAGE}", f"/{IMAGE}/compressed"):
        transport = topic.removeprefix(f"/{IMAGE}")
        return {camera: f"{image}{transport}" for camera, image in shown.image_topics.items()}
    if topic == depth_topics()[0].replace("~", f"/{NODE_NAME}"):
        return {camera: depth_topics(camera)[0].replace("~", shown.node) for camera in shown.image_topics}
    return None


def _with_topic(display: dict[str, Any], topic: str) -> dict[str, Any]:
    return {**display, "Topic": {**display["Topic"], "Value": topic}}
