"""What a result takes over from its recording."""

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import IMAGE_TOPIC, STREET, BagWriter, write_transforms
from scene_completion_ros.ros import topics
from tests.bags.recordings import START, image, transform

CAMERA, BODY, TF = "camera_optical", "base_link", "tf2_msgs/msg/TFMessage"


def transforms_of(path: Path, output: Path) -> tuple[BagReader, list[int]]:
    with BagReader(path) as reader, BagWriter(output) as writer:
        write_transforms(reader, "/camera", writer)
    written = BagReader(output)
    written.open()
    return written, [len(one.message.transforms) for one in written.messages(["/tf_static"])]


def write(path: Path, *fixed: tuple[str, str]) -> Path:
    with BagWriter(path) as bag:
        for parent, child in fixed:
            bag.write("/tf_static", TF, transform(parent, child, (0.0, 0.0, 1.0), START), START)
        bag.write("/tf", TF, transform("odom", BODY, (3.0, 0.0, 0.0), START), START)
        bag.write("/camera", "sensor_msgs/msg/Image", image(np.zeros((48, 64, 3)), "rgb8", frame_id=CAMERA), START)
    return path


def test_all_frames_of_the_recording_and_the_street_are_connected(tmp_path: Path) -> None:
    written, latched = transforms_of(write(tmp_path / "drive", (BODY, CAMERA), (BODY, "lidar")), tmp_path / "out")
    assert latched == [3]  # in one message: late readers of a latched topic get no other
    buffer = written.tf_buffer()
    assert buffer.lookup("odom", CAMERA, START).translation == pytest.approx([3.0, 0.0, 1.0])
    ahead = buffer.lookup(STREET, CAMERA, START).apply(np.array([[0.0, 0.0, 10.0]]))
    np.testing.assert_allclose(ahead, [[10.0, 0.0, 1.65]], atol=1e-12)
    buffer.lookup(STREET, "lidar", START)
    written.close()


def test_images_have_the_name_that_the_node_has_for_them() -> None:
    assert topics.default_name(topics.IMAGE) == IMAGE_TOPIC
