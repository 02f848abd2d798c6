"""Clocks that start anew, calibration files and loose synchronisation, in made-up bags."""

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import BagError
from scene_completion_ros.sequences.from_bag import posed_recording, read_recordings
from tests.bags.recordings import SECOND, START, Drive, compressed, jpeg, recorded, transform


def again(drive: Drive, index: int, *, x: float) -> None:
    """Image and pose of a drive whose clock was set back to the start of the first: stamps repeat, bag time goes on."""
    bag_stamp, stamp = START + (100 + index) * SECOND // 10, START + index * SECOND // 10
    drive.writer.write("/tf", "tf2_msgs/msg/TFMessage", transform("map", "base_link", (x, 0.0, 0.0), stamp), bag_stamp)
    message = compressed(jpeg(index), "jpeg", stamp_ns=stamp)
    drive.writer.write("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, bag_stamp)


def two_drives(drive: Drive) -> None:
    drive.static()
    for index in range(15):
        drive.moment(index)
    for index in range(6):
        again(drive, index, x=50.0 + index)


def test_a_clock_that_starts_anew_begins_another_recording_with_its_own_transforms(tmp_path: Path) -> None:
    with BagReader(recorded(tmp_path / "bag", two_drives)) as reader:
        first, second = read_recordings(reader, split_at_clock_jumps=True)
        positions = [
            [frame.world_from_rig.translation[0] for frame in posed_recording(part).frames] for part in (first, second)
        ]
    np.testing.assert_allclose(positions[0], 0.2 + np.arange(15) / 10)
    np.testing.assert_allclose(positions[1], 50.2 + np.arange(6))
    assert not first.dropped and not second.dropped


@pytest.mark.parametrize(("topic", "fx"), [("/camera/image_raw/compressed", 33.0), ("/camera/image_rect", 30.0)])
def test_a_calibration_file_replaces_a_missing_camera_info(tmp_path: Path, topic: str, fx: float) -> None:
    calibration = tmp_path / "camera.yaml"
    calibration.write_text(
        "image_width: 64\nimage_height: 48\ncamera_matrix: {data: [33, 0, 31.5, 0, 33, 23.5, 0, 0, 1]}\n"
        "distortion_model: plumb_bob\ndistortion_coefficients: {data: [0.1, 0, 0, 0, 0]}\n"
        "projection_matrix: {data: [30, 0, 31, 0, 0, 30, 23, 0, 0, 0, 1, 0]}\n"
    )
    with BagReader(recorded(tmp_path / "bag", lambda drive: drive.image(0, topic=topic))) as reader:
        with pytest.raises(BagError, match="no CameraInfo"):
            read_recordings(reader)
        (recording,) = read_recordings(reader, calibration={topic: str(calibration)})
    assert recording.cameras["camera"].fx == fx
