"""Bags to sequences, end to end: made-up drives, and what can be wrong with them."""

import dataclasses
import errno
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from scene_completion_ros import cli
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.posed_sequence import PosedSequence, check_for_training
from scene_completion_training.evaluation.lidar_evaluation import scan_poses
from scene_completion_training.extraction import bag as bag_module
from scene_completion_training.extraction.bag import Job, extract_bag, extract_bags
from scene_completion_training.extraction.finishing import ExtractionSettings
from scene_completion_training.extraction.report import BagReport, summary_table
from scene_completion_worlds.street.drive_bag import write_drive_bag
from tests.bags.recordings import (
    SECOND,
    START,
    Drive,
    camera_info,
    compressed,
    header,
    jpeg,
    odometry,
    record,
    recorded,
    transform,
)
from tests.messages.test_images import cloud
from tests.training.evaluation.one_wall import SENSOR, STEP, WALL_FRONT, WALL_LEFT, WALL_RIGHT, make_street

SETTINGS = ExtractionSettings(keyframe_metres=0.05)


def extract(bag: Path, tmp_path: Path, **changes: Any) -> tuple[BagReport, list[PosedSequence]]:
    folder = tmp_path / "out" / bag.stem
    report = extract_bag(Job(bag, folder, dataclasses.replace(SETTINGS, **changes)))
    return report, [PosedSequence.load(folder / sequence.folder) for sequence in report.sequences]


def test_keyframes_leave_out_where_the_rig_stands_and_gaps_split(tmp_path: Path) -> None:
    def standing_at_last(made: Drive) -> None:
        made.static()
        for index in (*range(30), *range(60, 72)):
            made.moment(index, x=min(index, 10) / 10 if index < 30 else None)

    bag = recorded(tmp_path / "bag", standing_at_last)
    report, (first, second) = extract(bag, tmp_path, keyframe_metres=0.19)
    places = [frame.world_from_rig.translation[0] for frame in first.frames]
    np.testing.assert_allclose(places, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2], atol=1e-9)
    assert (first.name, second.name, len(second)) == ("bag/00", "bag/01", 6)
    assert report.sequences[0].frames == 6 and report.sequences[0].metres == pytest.approx(1.0)
    check_for_training(first, "here")
    assert report.skipped == {"less than 0.19 m and 5° from the last keyframe": 30}
    assert report.warnings == ["gap of 3.1 s after frame 29: split there"]
    standing, none = extract(bag, tmp_path / "again", keyframe_metres=5.0)
    assert not none
    assert "30 frames with 1 keyframes are left out" in standing.problems[0]


def test_frames_that_lack_a_camera_and_cameras_without_calibration_are_left_out(tmp_path: Path) -> None:
    def stereo(made: Drive) -> None:
        for frame, x in (("l", 0.0), ("r", 0.5)):
            made.static(child=frame, x=x)
        for index in range(10):
            made.pose(index)
            made.image(index, camera="rear", frame="rear")
            made.image(index, camera="left", frame="l")
            if index not in (4, 7):
                made.image(index, camera="right", frame="r", delay_ns=3_000_000)
            for side, frame in (("left", "l"), ("right", "r")):
                made.info(index, camera=side, frame=frame)

    report, (sequence,) = extract(recorded(tmp_path / "bag", stereo), tmp_path)
    assert len(sequence) == 8 and all(set(frame.images) == {"left", "right"} for frame in sequence.frames)
    assert report.skipped == {"right: no image within 5 ms of the other cameras": 2}
    assert report.warnings[0].startswith("/rear/image_raw/compressed is left out: no CameraInfo")


def one_camera(**fields: Any) -> Callable[[Drive], None]:
    """A drive whose CameraInfo have these fields, numbers or lists of them by moment."""

    def fill(made: Drive) -> None:
        made.static()
        for index in range(10):
            made.pose(index)
            made.image(index)
            made.info(index, **{name: one[index] if isinstance(one, list) else one for name, one in fields.items()})

    return fill


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"f": 50.0, "centre": (39.5, 29.5)}, "images 1.25 times larger, 80x60, or this image is a crop"),
        ({"f": 30.0, "centre": (23.5, 17.5)}, "images 1.33 times smaller, 48x36"),
        ({"f": 4.0}, "fx = 4 pixels in an image of width 64 .* perhaps it is in millimetres"),
        ({"f": [40.0 + index / 3 for index in range(10)]}, "field k changes from message to message, .* too much"),
    ],
)
def test_nothing_is_extracted_with_the_calibration_of_another_mode_or_of_none(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    report, sequences = extract(recorded(tmp_path / "bag", one_camera(**fields)), tmp_path)
    assert not sequences and len(report.problems) == 1
    assert re.search(f"topic /camera/camera_info.*{words}", report.problems[0]), report.problems


def test_a_crop_that_the_roi_describes_is_no_other_mode(tmp_path: Path) -> None:
    def cropped(made: Drive) -> None:
        made.static()
        for index in range(10):
            made.pose(index)
            made.image(index)
            message = camera_info(stamp_ns=START + index * SECOND // 10, width=80, height=60, centre=(39.5, 29.5))
            message.roi.width, message.roi.height = 64, 48
            made.writer.write(
                "/camera/camera_info", "sensor_msgs/msg/CameraInfo", message, START + index * SECOND // 10
            )

    report, (sequence,) = extract(recorded(tmp_path / "bag", cropped), tmp_path)
    assert not report.problems and not report.warnings and sequence.cameras["camera"].cx == 39.5


def test_a_calibration_that_jitters_is_extracted_as_its_median(tmp_path: Path) -> None:
    jittering = one_camera(f=[40.0, 40.4, 39.6, 40.2, 39.8, 40.0, 40.0, 40.0, 39.9, 40.1])
    report, (sequence,) = extract(recorded(tmp_path / "bag", jittering), tmp_path)
    assert sequence.cameras["camera"].fx == 40.0
    assert [": their median is used (fx 40.0)" in warning for warning in report.warnings] == [True]


def stereo_in_one_frame(p3: float, first: str = "left", other: str = "right") -> Callable[[Drive], None]:
    def fill(made: Drive) -> None:
        made.static()
        for index in range(10):
            made.pose(index)
            for camera in (first, other):
                made.image(index, camera=camera)
                made.info(index, camera=camera, p3=p3 if camera == other else 0.0)

    return fill


@pytest.mark.parametrize(
    ("p3", "words"),
    [
        (
            -20000.0,
            "a stereo baseline of 500 m by P[3] = -20000: stereo rigs have 0.01 to 4 m (it would be 0.5 m if in mil",
        ),
        (-0.3, "(it would be 0.3 m if P[3] is in metres, without fx)"),
        (
            -0.004,
            "a stereo baseline of 0.0001 m by P[3] = -0.004: stereo rigs have 0.01 to 4 m (it would be 0.1 m if div",
        ),
        (20.0, "P[3] = 20 places the right camera 0.500 m to the left of the left one"),
    ],
)
def test_a_stereo_baseline_that_cannot_be_is_refused(tmp_path: Path, p3: float, words: str) -> None:
    report, sequences = extract(recorded(tmp_path / "bag", stereo_in_one_frame(p3)), tmp_path)
    assert not sequences and "topic /right/camera_info, p: " in report.problems[0]
    assert words in report.problems[0]


def test_a_second_camera_to_the_left_is_fine_unless_it_is_called_right(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", stereo_in_one_frame(20.0, "a", "b"))
    report, (sequence,) = extract(bag, tmp_path)
    assert not report.problems and sequence.rig_from_camera["b"].translation[0] == pytest.approx(-0.5)


@pytest.mark.parametrize(("more", "length"), [([], 40.0), (["--rectified"], 36.0)])
def test_rectified_images_are_not_rectified_again(tmp_path: Path, more: list[str], length: float) -> None:
    """Through the command, with a calibration file of the unrectified images."""
    bag = record(tmp_path / "bag", 10)
    document = {"image_width": 64, "image_height": 48, "distortion_model": "plumb_bob"}
    document |= {"camera_matrix": {"data": [40.0, 0, 31.5, 0, 40.0, 23.5, 0, 0, 1]}}
    document |= {"distortion_coefficients": {"data": [-0.2, 0.05, 0, 0, 0]}}
    document |= {"projection_matrix": {"data": [36.0, 0, 31.5, 0, 0, 36.0, 23.5, 0, 0, 0, 1, 0]}}
    (tmp_path / "camera.yaml").write_text(json.dumps(document))
    command = ["extract", str(bag), "--output", str(tmp_path / "out"), "--keyframe-metres", "0.05", *more]
    command += ["--camera-file", f"/camera/image_raw/compressed={tmp_path / 'camera.yaml'}"]
    assert cli.main(command) == 0
    sequence = PosedSequence.load(tmp_path / "out" / "bag" / "00")
    assert sequence.cameras["camera"].fx == length
    assert ("validity_camera" in sequence.frames[0].assets) == (not more)  # what resampling leaves behind


def test_bad_messages_of_any_type_are_left_out_and_counted_once(tmp_path: Path) -> None:
    """Of every type one that is cut short and one that says nothing usable, each at the time of the sixth frame."""
    points, at = np.ones((5, 3), np.float32), START + SECOND // 2
    blind, empty = cloud(points), odometry("odom", "base_link", (1e30, 0.0, 0.0), at)
    blind.header, blind.fields = header(at, "lidar"), blind.fields[1:]
    no_picture = compressed(b"no picture", "jpeg", stamp_ns=at)
    bad = {
        ("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage"): no_picture,
        ("/camera/camera_info", "sensor_msgs/msg/CameraInfo"): camera_info(stamp_ns=at, f=0.0),
        ("/lidar", "sensor_msgs/msg/PointCloud2"): blind,
        ("/odom", "nav_msgs/msg/Odometry"): empty,
        ("/tf", "tf2_msgs/msg/TFMessage"): transform("map", "base_link", (0.0, math.nan, 0.0), at),
    }
    with BagWriter(tmp_path / "bag") as writer:
        made = Drive(writer)
        made.static()
        made.static(child="lidar", x=0.0)
        for (topic, kind), message in bad.items():
            writer.write(topic, kind, message, at)
            writer.write(topic, kind, b"\x00\x01\x00\x00\x07", at)
        for index in range(12):
            made.odometry(index)
            made.image(index)
            made.info(index)
            if index != 5:
                scan = cloud(points)
                scan.header = header(START + index * SECOND // 10, "lidar")
                writer.write("/lidar", "sensor_msgs/msg/PointCloud2", scan, START + index * SECOND // 10)
    report, (sequence,) = extract(tmp_path / "bag", tmp_path)
    assert not report.problems and len(sequence) == 12
    assert [index for index in range(12) if sequence.lidar(index) is None] == [5]
    assert {topic for topic, _ in bad} == {reason.partition(": ")[0] for reason in report.skipped}
    assert len(report.skipped) == 10 and set(report.skipped.values()) == {1}, report.skipped
    assert all(reason in summary_table([report]) for reason in report.skipped)


def test_one_bad_bag_never_stops_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.bag").write_text("this is no bag")
    (file,) = record(tmp_path / "cut", 40).glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    loops = tmp_path / "loops"
    (tmp_path / "loop").symlink_to("loop")
    loops.mkdir()
    (loops / "a.mcap").symlink_to("a.mcap")  # to itself, as the link before, and to its own folder
    (loops / "above.mcap").symlink_to(loops)
    recorded(tmp_path / "poseless", lambda made: [made.static(), made.image(0), made.info(0)])
    recorded(tmp_path / "blind", lambda made: [made.static(), made.pose(0), made.image(0)])
    bags = [tmp_path / name for name in ("text.bag", "blind", "poseless", "cut", "nowhere", "loop", "loops")]
    bags.append(record(tmp_path / "good", 10))
    command = ["extract", *map(str, bags), "--output", str(tmp_path / "out"), "--keyframe-metres", "0.05"]
    assert cli.main(command) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good"]
    report = json.loads((tmp_path / "out" / "good" / "report.json").read_text())
    assert report["bag"] == str(bags[-1]) and len(report["sequences"]) == 1
    printed = capsys.readouterr().out
    said = dict(re.findall(r"^(\S+) +nothing extracted\n((?:  - .*\n?)*)", printed, re.MULTILINE))
    assert list(said) == [bag.name for bag in bags[:-1]]
    assert "no CameraInfo" in said["blind"]
    assert "visual-inertial odometry node" in said["poseless"]
    assert "`mcap recover`" in said["cut"]
    assert all("no such file" in said[name] for name in ("nowhere", "loop"))
    assert "the folder holds no .mcap" in said["loops"]
    only_bad = ["extract", str(tmp_path / "text.bag"), "--output", str(tmp_path / "other")]
    assert cli.main(only_bad) == 1


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ZeroDivisionError("by nothing"), "defect of the program: ZeroDivisionError: by nothing"),
        (OSError(errno.EFBIG, "File too large"), "File too large. Name a place on a disk that takes larger files"),
    ],
)
def test_an_error_is_in_the_report_and_the_bag_can_be_extracted_again(
    error: Exception,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag, out = record(tmp_path / "bag", 12), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(bag_module, "posed_recording", Mock(side_effect=error))
        report, none = extract(bag, tmp_path)
    assert not none and problem in report.problems[0]
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, ZeroDivisionError)
    assert list(out.iterdir()) == []
    extract(bag, tmp_path)
    assert [path.name for path in out.iterdir()] == ["bag"]


def test_what_was_extracted_is_not_overwritten_unasked(tmp_path: Path) -> None:
    bag, folder = record(tmp_path / "bag", 12), tmp_path / "out" / "bag"
    (first,) = extract_bags([Job(bag, folder, SETTINGS)])
    assert first.sequences and not first.problems
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (again,) = extract_bags([Job(bag, folder, SETTINGS)])
    assert not again.sequences and f"{folder}: exists already. Delete it or" in again.problems[0]
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (folder / "notes.txt").write_text("mine")
    (folder / "07").mkdir()  # of a former extraction that had more
    (third,) = extract_bags([Job(bag, folder, SETTINGS, overwrite=True)])
    assert third.sequences == first.sequences and {path.name for path in folder.iterdir()} == {
        *("00", "report.json", "notes.txt")
    }


def test_interrupted_extraction_leaves_nothing_and_is_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(record(tmp_path / "bag", 12), tmp_path / "out" / "bag", SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(PosedSequence, "save", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extract_bags([job])
    assert list((tmp_path / "out").iterdir()) == []
    assert extract_bags([job])[0].sequences
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bag"]


def test_fisheyes_are_rectified_and_masked(tmp_path: Path) -> None:
    def fisheyes(made: Drive) -> None:
        made.static()
        for index in range(6):
            made.pose(index)
            size, stamp = {"width": 200, "height": 150}, START + index * SECOND // 10
            message = compressed(jpeg(index, **size), "jpeg", stamp_ns=stamp)
            made.writer.write("/front/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, stamp)
            info = camera_info(**size, stamp_ns=stamp, f=80.0, centre=(99.5, 74.5))
            info.distortion_model, info.d = "equidistant", np.zeros(4)
            made.writer.write("/front/camera_info", "sensor_msgs/msg/CameraInfo", info, stamp)

    bag = recorded(tmp_path / "bag", fisheyes)
    ego, files = np.zeros((150, 200), np.uint8), [tmp_path / "ego.png", tmp_path / "small.png"]
    ego[110:, 60:140] = 255
    for file, drawn in zip(files, (ego, ego[::2]), strict=True):
        cv2.imwrite(str(file), drawn)
    _, (sequence,) = extract(bag, tmp_path, ego_masks=(("front", str(files[0])),))
    camera = sequence.cameras["front"]
    assert camera.distortion_model == "none" and (camera.width, camera.height) == (191, 150)
    assert sequence.image(0, "front").shape == (150, 191, 3)
    validity, mask = sequence.asset(0, "validity_front"), sequence.asset(5, "ego_front")
    assert validity.shape == mask.shape == (150, 191) and validity.any()
    fisheye = Camera(80.0, 80.0, 99.5, 74.5, 200, 150, "equidistant", (0.0, 0.0, 0.0, 0.0))
    pixels, seen = fisheye.project(camera.unproject(camera.pixel_centres()))
    column, row = np.rint(pixels).astype(int).clip(0, [199, 149])[::8, ::8].reshape(-1, 2).T
    assert (mask[::8, ::8].reshape(-1) == (ego[row, column] > 0))[seen[::8, ::8].reshape(-1)].mean() > 0.98
    assert len(list((tmp_path / "out" / "bag" / "00" / "assets" / "ego_front").iterdir())) == 1  # of all frames
    refused = ("rear", files[0], "no camera rear"), ("front", files[1], "mask is 200x75, images are")
    for name, file, problem in refused:
        assert problem in extract(bag, tmp_path / "again", ego_masks=((name, str(file)),))[0].problems[0]


def test_impossible_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extract", "bag", "--output", str(tmp_path), "--ego-mask", "front"]) == 2
    assert "'front' is no NAME=FILE" in capsys.readouterr().err


HALF_S = 50_000_000
"""Nanoseconds from image to image: half the time from scan to scan."""
LIDAR = RigidTransform(SENSOR.rotation, np.array([0.1, -0.25, -0.5]))
"""Above and behind the camera."""


def test_scans_lie_where_the_camera_sees_them(tmp_path: Path) -> None:
    """Ten images at 20 Hz and five scans at 10 Hz of a street with one wall, recorded and extracted."""
    street = make_street(("lidar",))
    frames = [dataclasses.replace(frame, stamp_ns=10**18 + HALF_S * index) for index, frame in enumerate(street.frames)]
    made = dataclasses.replace(street, frames=frames, rig_from_sensor={"velodyne": LIDAR})
    saved = PosedSequence.load(made.save(tmp_path / "street"))
    write_drive_bag(saved, tmp_path / "bag", lidar_every=2)
    with BagReader(tmp_path / "bag") as reader:
        assert reader.first("/camera/image_raw/compressed").format == "png" and reader.counts["/odom"] == 10
    command = ["extract", str(tmp_path / "bag"), "--output", str(tmp_path / "out"), "--keyframe-metres", "0.1"]
    assert cli.main(command) == 0
    sequence = PosedSequence.load(tmp_path / "out" / "bag" / "00")
    assert len(sequence) == 10
    np.testing.assert_allclose(sequence.rig_from_sensor["velodyne"].matrix, LIDAR.matrix, atol=1e-6)
    # An image without a scan of its own shows the one before it, of which the rig has come 0.25 m nearer.
    found = list(scan_poses(sequence))
    assert [index for index, _ in found] == [0, 2, 4, 6, 8]
    for index in (0, 3, 6):
        points = sequence.lidar(index)
        front = WALL_FRONT - STEP * index
        wall = points[np.abs(points[:, 2] - front) < 0.01]
        # The wall reaches from x = -1 to 3 m: at 10 m from column 31.5 - 4 = 27.5 to 31.5 + 12 = 43.5.
        assert wall[:, 0].min() == pytest.approx(WALL_LEFT, abs=0.06)
        assert wall[:, 0].max() == pytest.approx(WALL_RIGHT, abs=0.06)
        columns = street.cameras["camera_left"].project(wall.astype(np.float64))[0][:, 0]
        assert columns.min() == pytest.approx(31.5 - 40.0 / front, abs=0.3)
        assert columns.max() == pytest.approx(31.5 + 120.0 / front, abs=0.3)
        stored = sequence.asset(index, "lidar_pose")
        behind = STEP * (index % 2)  # metres that the rig has driven since the scan
        np.testing.assert_allclose(stored[:3, 3], LIDAR.translation - [0.0, 0.0, behind], atol=1e-6)
