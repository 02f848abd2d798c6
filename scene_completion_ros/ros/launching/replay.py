"""What `replay.launch.py` starts: which topics the recording has, and the command that plays it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import BagError
from scene_completion_ros.ros.launching.settings import full_node_name
from scene_completion_ros.ros.replay.playback import base_name
from scene_completion_ros.ros.topics import CAMERA_INFO

COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
PASSED_ON = ("bundle", "grid", "rate", "loop", "clock", "output", "ground_truth", "ground_truth_offset")
"""Launch arguments that are options of `scene-completion replay` of the same name; empty ones are left out."""


@dataclass(frozen=True)
class RecordedCamera:
    """Topics of one camera of a recording.

    Attributes:
        image_topic: The same without transport, as the node's `image` is remapped.
        image_transport: "raw" or "compressed".
        camera_info_topic: Where its calibration is played.
        frame_id: Frame of the first image.
        rectified: Whether the images are rectified, by the name of their topic.
    """

    recorded_topic: str
    image_topic: str
    image_transport: str
    camera_info_topic: str
    frame_id: str
    rectified: bool


def recorded_camera(bag: str | Path, image_topic: str = "", camera_info_topic: str = "") -> RecordedCamera:
    """Look up the topics of a camera.

    Args:
        image_topic: Recorded topic; empty takes the only one.
        camera_info_topic: Recorded topic; empty takes the one that belongs to the image topic.

    Raises:
        BagError: No such recording, topic, CameraInfo or image: names what there is.
    """
    with BagReader(bag) as reader:
        topic = reader.choose_image_topic(image_topic or None)
        info_topic = camera_info_topic or reader.camera_info_topic(topic)
        if info_topic is None:
            raise BagError(
                f"no CameraInfo for {topic}",
                where=str(bag),
                cure="Name it with camera_info_topic:=, or use scene-completion replay with --camera",
            )
        first = reader.first(topic)
        if first is None:
            raise BagError("no image", where=f"{bag}, topic {topic}", cure="Record it again")
        base = base_name(topic)
        return RecordedCamera(
            recorded_topic=topic,
            image_topic=base,
            image_transport="compressed" if reader.topics[topic] == COMPRESSED_TYPE else "raw",
            camera_info_topic=info_topic,
            frame_id=str(first.header.frame_id),
            rectified="image_rect" in topic,
        )


def node_parameters(camera: RecordedCamera, bundle: str, grid: str = "") -> dict[str, str | bool]:
    """Parameters of the node that a replay needs, whatever the parameter file says.

    Args:
        bundle: Folder of the student; empty leaves it to the parameter file.
        grid: File of the voxel grid; likewise.
    """
    parameters: dict[str, str | bool] = {
        "use_sim_time": True,
        "autostart": True,
        "image.transport": camera.image_transport,
        "image.qos": "reliable",  # nothing is to be lost between player and node
        "grid.frame": "",  # the player takes voxels to be those of one image, in its frame
        "cameras": "",
    }
    if camera.rectified:
        parameters["image.rectified"] = True
    given = {"bundle": bundle, "grid.file": grid}
    return parameters | {name: value for name, value in given.items() if value}


def player_command(bag: str, camera: RecordedCamera, namespace: str, options: Mapping[str, str]) -> list[str]:
    """The command that plays a recording to the node.

    Args:
        options: Launch arguments: those of `PASSED_ON`, and "also" with further topics, separated by blanks.
    """
    command = [sys.executable, "-m", "scene_completion_ros.cli", "replay", bag, "--node", full_node_name(namespace)]
    command += ["--image-topic", camera.recorded_topic]
    if camera.camera_info_topic.rpartition("/")[2] != CAMERA_INFO or options.get("camera_info_topic"):
        command += ["--camera-info-topic", camera.camera_info_topic]
    for name in PASSED_ON:
        if value := options.get(name):
            command += [f"--{name.replace('_', '-')}", value]
    for topic in options.get("also", "").split():
        command += ["--also", topic]
    return command
