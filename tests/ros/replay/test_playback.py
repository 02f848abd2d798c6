"""How a recording is played: further topics beside the images."""

from __future__ import annotations

from pathlib import Path

from rclpy.serialization import serialize_message
from std_msgs.msg import String

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.ros import messages
from scene_completion_ros.ros.replay.bag_replay import replay_over_dds
from scene_completion_ros.ros.replay.playback import Playback
from tests.ros.graph import Graph
from tests.ros.replay.test_bag_replay import CAMERA, FRAME, START_NS, STEP_NS, rough_image

TOPIC, INFO, NOTES = "/front/image_raw", "/front/camera_info", "/notes"
FRAMES = 4


def write_drive(path: Path) -> None:
    """Images every 0.1 s, and a note 0.2 s after each, which lies before the image after the next."""
    with BagWriter(path) as bag:
        for number in range(FRAMES):
            stamp_ns = START_NS + number * STEP_NS
            if not number:
                info = messages.camera_info_message(CAMERA, stamp_ns, FRAME)
                bag.write(INFO, "sensor_msgs/msg/CameraInfo", serialize_message(info), stamp_ns)
            image = messages.image_message(rough_image(number), stamp_ns, FRAME)
            bag.write(TOPIC, "sensor_msgs/msg/Image", serialize_message(image), stamp_ns)
            note = serialize_message(String(data=str(number)))
            bag.write(NOTES, "std_msgs/msg/String", note, stamp_ns + 2 * STEP_NS)


def test_further_topics_are_played_as_they_are(tmp_path: Path, node_parameters: dict[str, object]) -> None:
    write_drive(tmp_path / "drive")
    graph = Graph()
    notes = graph.collect(String, NOTES, 1000)
    with BagReader(tmp_path / "drive") as reader:
        playback = Playback(also=(NOTES,))
        statistics = replay_over_dds(reader, TOPIC, playback=playback, node_parameters=node_parameters)
    assert (statistics.frames_in, statistics.frames_out) == (FRAMES, FRAMES)
    assert graph.until(lambda: len(notes) >= FRAMES)
    assert [note.data for note in notes] == [str(number) for number in range(FRAMES)]
    graph.close()
