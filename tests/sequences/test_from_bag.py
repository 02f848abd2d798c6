"""Posed sequences from bags: recorded ones for the geometry, made-up ones for everything that can go wrong."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import BagError, SequenceError
from scene_completion_ros.sequences.from_bag import posed_recording, read_recordings, sequence_from_bag
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.posed_sequence import PosedSequence, mounting
from tests.bags.recordings import (
    HEIGHT,
    SECOND,
    START,
    WIDTH,
    Drive,
    compressed,
    image,
    jpeg,
    record,
    recorded,
    transform,
)


def sequence_of(path: Path, fill: Callable[[Drive], Any], **arguments: Any) -> PosedSequence:
    with BagReader(recorded(path, fill)) as reader:
        (recording,) = read_recordings(reader)
        return posed_recording(recording, **arguments)


NO_POSE, STANDS = "no pose: transform map -> base_link", "/camera/image_raw/compressed: header stamp does not advance"
WITH_A_GAP = [0, 1, 2, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("poses", "images", "x", "dropped"),
    [
        (range(3), [{"delay_ns": 25_000_000}] * 3, [0.225, 0.325], {NO_POSE: 1}),  # interpolated at header stamps
        (WITH_A_GAP, [{}] * 12, 0.2 + np.array(WITH_A_GAP) / 10, {NO_POSE: 5}),
        (range(6), [{}, {}, {"stamp_ns": START}] * 2, [0.2, 0.3, 0.5, 0.6], {STANDS: 2}),  # stamps going back
    ],
)
def test_images_without_a_pose_or_with_an_old_stamp_are_dropped_and_counted(
    tmp_path: Path, poses: Any, images: Any, x: Any, dropped: dict[str, int]
) -> None:
    def fill(drive: Drive) -> None:
        drive.static()
        drive.info(0)
        for index in poses:
            drive.pose(index)
        for index, options in enumerate(images):
            drive.image(index, **options)

    sequence = sequence_of(tmp_path / "bag", fill)
    np.testing.assert_allclose([f.world_from_rig.translation[0] for f in sequence.frames], x, atol=1e-9)
    assert sequence.provenance["dropped_images"] == dropped


def test_a_frame_of_the_ground_gives_the_mounting_of_the_camera(tmp_path: Path) -> None:
    with BagReader(record(tmp_path / "bag", 5)) as reader:
        (recording,) = read_recordings(reader)
        sequence = posed_recording(recording, ground_frame="base_link", ground_height=-0.25)
    assert sequence.floor == -0.25
    np.testing.assert_allclose(sequence.world_from_camera(3, "camera").translation, [0.5, 0, 1], atol=1e-9)
    stated = mounting(sequence, "camera", 3)
    np.testing.assert_allclose(stated.translation, [0, 0, 1.25], atol=1e-9)


def stereo(*, frames: tuple[str, str], p3: float, static_x: float | None) -> Callable[[Drive], None]:
    def fill(drive: Drive) -> None:
        drive.static(child=frames[0], x=0.0)
        if static_x is not None:
            drive.static(child=frames[1], x=0.0, y=-static_x)
        for index in range(3):
            drive.pose(index)
            for side, frame in zip(("left", "right"), frames, strict=True):
                drive.image(index, camera=side, frame=frame)
                drive.info(index, camera=side, frame=frame, p3=p3 if side == "right" else 0.0)

    return fill


@pytest.mark.parametrize(
    ("frames", "static_x", "baseline", "warnings"),
    [(("l", "l"), None, 0.5, 0), (("l", "r"), None, 0.5, 0), (("l", "r"), 0.7, 0.7, 1)],
)
def test_stereo_pair_by_projection(
    tmp_path: Path, frames: tuple[str, str], static_x: float | None, baseline: float, warnings: int
) -> None:
    """Rectified pairs often share one frame, or have no tf between them: P[3] = -fx * baseline places the right."""
    sequence = sequence_of(tmp_path / "bag", stereo(frames=frames, p3=-20.0, static_x=static_x))
    np.testing.assert_allclose(sequence.rig_from_camera["right"].translation, [baseline, 0, 0])
    assert ["0.200 m apart" in warning for warning in sequence.provenance["warnings"]] == [True] * warnings


def test_cameras_that_are_not_synchronous_make_frames_of_their_own(tmp_path: Path) -> None:
    def fill(drive: Drive) -> None:
        stereo(frames=("l", "r"), p3=-20.0, static_x=0.5)(drive)
        drive.pose(3)
        drive.image(2, camera="right", frame="r", delay_ns=40_000_000)

    sequence = sequence_of(tmp_path / "bag", fill)
    assert [sorted(frame.images) for frame in sequence.frames] == [["left", "right"]] * 3 + [["right"]]


def depth(
    drive: Drive, index: int, *, frame: str = "camera_optical", millimetres: bool = True, late_ns: int = 0
) -> None:
    """A depth image of so many metres as its number and a half."""
    stamp = START + index * SECOND // 10 + late_ns
    metres = np.full((HEIGHT // 2, WIDTH // 2), index + 0.5, np.float32)
    data, encoding = ((1000 * metres).astype("<u2"), "16UC1") if millimetres else (metres, "32FC1")
    size = {"width": WIDTH // 2, "height": HEIGHT // 2}
    message = image(data, encoding, stamp_ns=stamp, frame_id=frame, **size)
    drive.writer.write(f"/{frame}/aligned_depth/image_raw", "sensor_msgs/msg/Image", message, stamp)


@pytest.mark.parametrize("millimetres", [True, False])
def test_depth_in_the_frame_of_the_camera_comes_with_its_images(tmp_path: Path, millimetres: bool) -> None:
    def fill(drive: Drive) -> None:
        drive.static()
        for index in range(3):
            drive.moment(index)
            depth(drive, index, frame="another_optical")
            depth(drive, index, millimetres=millimetres, late_ns=30_000_000 if index == 1 else 5_000_000)

    sequence = pickle.loads(pickle.dumps(sequence_of(tmp_path / "bag", fill)))
    assert list(sequence.cameras) == ["camera"] and sequence.asset(1, "depth") is None
    for index in (0, 2):
        np.testing.assert_array_equal(sequence.asset(index, "depth"), np.full((24, 32), index + 0.5, np.float32))


def with_another_tf(drive: Drive) -> None:
    """A second topic holds the robot's transform too, a little to the left."""
    drive.static()
    for index in range(40):
        drive.moment(index)
        stamp = START + index * SECOND // 10
        message = transform("map", "base_link", (index / 10, 0.1, 0.0), stamp)
        drive.writer.write("/relayed/tf", "tf2_msgs/msg/TFMessage", message, stamp)


def nameless_odometry(drive: Drive) -> None:
    drive.image(0)
    drive.info(0)
    drive.static()
    for index in range(3):
        drive.odometry(index, child="")


def test_the_frame_of_odometry_can_be_named(tmp_path: Path) -> None:
    sequence = sequence_of(tmp_path / "bag", nameless_odometry, odometry_topic="/odom=base_link")
    assert len(sequence) == 1 and sequence.pose_source == "/odom and tf, odom -> camera_optical"


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (lambda drive: [drive.image(0), drive.info(0)], r"moves, and odometry topics are: none\. Record /tf"),
        (
            lambda drive: [drive.image(0), drive.info(0), drive.pose(0), drive.odometry(0)],
            r"neither tf nor /odom.*static transform to the camera; known frames: base_link",
        ),
        (
            lambda drive: [nameless_odometry(drive), drive.odometry(0), drive.odometry(0, topic="/wheel")],
            "/odom, /wheel",
        ),
        (lambda drive: [drive.static(), drive.image(0), drive.info(0), drive.pose(50)], "no image has a pose"),
        (nameless_odometry, "topic /odom: odometry without child_frame_id.*--odometry-topic /odom=base_link"),
        (with_another_tf, "/tf and /relayed/tf: both hold the transform map -> base_link. Leave"),
        (
            lambda drive: [drive.static(), drive.moment(0), drive.static("camera_optical", "base_link")],
            "/tf_static: .* in a circle: camera_optical -> base_link -> camera_optical. One of them is the wrong way",
        ),
        (lambda drive: [drive.static(), drive.pose(0), drive.image(0)], "no CameraInfo"),
        (lambda drive: [drive.static(), drive.pose(0)], "no image topic"),
        (stereo(frames=("l", "l"), p3=0.0, static_x=None), "two cameras in one frame 'l'"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, fill: Callable[[Drive], Any], words: str) -> None:
    with pytest.raises((BagError, SequenceError), match=words) as caught:
        sequence_of(tmp_path / "bag", fill)
    assert caught.value.cure


# ---- recorded drives


def test_kitti_stereo_bag(shared_data: Path) -> None:
    with BagReader(shared_data / "rosbag2" / "kitti04_stereo_lidar_10f") as reader:
        sequence = sequence_from_bag(reader)
        info = reader.camera_info("/camera_color_right/image_raw/compressed")
        assert -info.p[3] / info.p[0] == pytest.approx(0.5379, abs=1e-4)
    assert len(sequence) == 10
    right = sequence.rig_from_camera["camera_color_right"].translation
    assert right[0] == pytest.approx(0.5379, abs=0.005)
    assert np.abs(right[1:]).max() < 0.01
    assert sequence.provenance["warnings"] == []

    window = kitti_odometry(shared_data / "kitti_windows" / "sequences" / "04")
    assert sequence.travelled_distance() == pytest.approx(window.travelled_distance(), rel=0.01)
    for index in (0, 7):
        cloud, scan = sequence.lidar(index), window.lidar(index)
        in_camera = window.rig_from_camera["image_2"].inverse().apply(scan)
        ahead = in_camera[(in_camera[:, 2] > 5) & (in_camera[:, 2] < 30)]
        found = cloud[(cloud[:, 2] > 5) & (cloud[:, 2] < 30)]
        np.testing.assert_allclose(found.mean(axis=0), ahead.mean(axis=0), atol=0.15)  # every second point


def test_a_clock_that_starts_anew_begins_another_recording_with_its_own_transforms(tmp_path: Path) -> None:
    def two_drives(drive: Drive) -> None:
        """Before the second one the clock is set back to the start of the first: stamps repeat, bag time goes on."""
        drive.static()
        for index in range(15):
            drive.moment(index)
        for index in range(6):
            bag_stamp, stamp = START + (100 + index) * SECOND // 10, START + index * SECOND // 10
            moved = transform("map", "base_link", (50.0 + index, 0.0, 0.0), stamp)
            drive.writer.write("/tf", "tf2_msgs/msg/TFMessage", moved, bag_stamp)
            message = compressed(jpeg(index), "jpeg", stamp_ns=stamp)
            drive.writer.write("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, bag_stamp)

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
