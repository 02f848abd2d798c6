"""Writing recordings."""

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import IMAGE_TOPIC, STREET, BagWriter, write_transforms
from scene_completion_ros.errors import BagError
from scene_completion_ros.ros import topics
from tests.bags.recordings import START, Drive, recorded, string


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.write("/text", "std_msgs/msg/String", string("kept"), START)
    with pytest.raises(BagError, match=r"exists already.*new folder"):
        BagWriter(tmp_path / "bag").open()
    with BagReader(tmp_path / "bag") as reader:
        assert next(reader.messages()).message.data == "kept"


def test_all_frames_of_the_recording_and_the_street_are_connected(tmp_path: Path) -> None:
    def fill(drive: Drive) -> None:
        drive.static()
        drive.static(child="lidar")
        drive.pose(0, x=3.0)
        drive.image(0)

    path, output, camera = recorded(tmp_path / "drive", fill), tmp_path / "out", "camera_optical"
    with BagReader(path) as reader, BagWriter(output) as writer:
        write_transforms(reader, "/camera/image_raw/compressed", writer)
    with BagReader(output) as reader:
        (latched,) = reader.messages(["/tf_static"])
        buffer = reader.tf_buffer()
    assert len(latched.message.transforms) == 3  # in one message: late readers of a latched topic get no other
    assert buffer.lookup("map", camera, START).translation == pytest.approx([3.2, 0.0, 1.0])
    ahead = buffer.lookup(STREET, camera, START).apply(np.array([[0.0, 0.0, 10.0]]))
    np.testing.assert_allclose(ahead, [[10.0, 0.0, 1.65]], atol=1e-12)
    buffer.lookup(STREET, "lidar", START)


def test_images_have_the_name_that_the_node_has_for_them() -> None:
    assert topics.default_name(topics.IMAGE) == IMAGE_TOPIC
