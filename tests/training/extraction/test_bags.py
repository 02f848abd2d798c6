"""Bags to sequences, end to end: made-up drives, everything that can be wrong with them, and recorded ones."""

import dataclasses
import errno
import math
import os
import signal
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from scene_completion_ros import cli
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.messages.transform_buffer import stamp_of
from scene_completion_ros.sequences.from_bag import sequence_from_bag
from scene_completion_ros.sequences.posed_sequence import PosedSequence, check_for_training
from scene_completion_training.evaluation.lidar_evaluation import scan_poses
from scene_completion_training.extraction import bag as bag_module
from scene_completion_training.extraction.bag import Job, extract_bag, extract_bags, finished_report
from scene_completion_training.extraction.settings import BagReport, ExtractionSettings, read_report, summary_table
from scene_completion_worlds.street.drive_bag import write_drive_bag
from tests.bags.recordings import (
    SECOND,
    START,
    Drive,
    camera_info,
    compressed,
    header,
    odometry,
    record,
    recorded,
    transform,
)
from tests.messages.test_clouds import cloud
from tests.training.evaluation.one_wall import SENSOR, STEP, WALL_FRONT, WALL_LEFT, WALL_RIGHT, make_street
from tests.training.extraction.textured_street import CAMERA, HEIGHT_ABOVE_GROUND, aligned_error, drive, write_bag

IDENTITY = RigidTransform.identity()
SETTINGS = ExtractionSettings(keyframe_metres=0.05)


def extract(bag: Path, tmp_path: Path, **changes: Any) -> tuple[BagReport, list[PosedSequence]]:
    settings = ExtractionSettings(**{"keyframe_metres": 0.05, **changes})
    report = extract_bag(Job(bag, tmp_path / "out" / bag.stem, settings))
    folders = [tmp_path / "out" / bag.stem / sequence.folder for sequence in report.sequences]
    return report, [PosedSequence.load(folder) for folder in folders]


def positions(sequence: PosedSequence) -> np.ndarray:
    return np.stack([frame.world_from_rig.translation for frame in sequence.frames])


def test_keyframes_leave_out_where_the_rig_stands_and_gaps_split(tmp_path: Path) -> None:
    def standing_at_last(made: Drive) -> None:
        made.static()
        for index in (*range(30), *range(60, 72)):
            made.moment(index, x=min(index, 10) / 10 if index < 30 else None)

    bag = recorded(tmp_path / "bag", standing_at_last)
    report, (first, second) = extract(bag, tmp_path, keyframe_metres=0.19)
    np.testing.assert_allclose(positions(first)[:, 0], [0.2, 0.4, 0.6, 0.8, 1.0, 1.2], atol=1e-9)
    assert (first.name, second.name, len(second)) == ("bag/00", "bag/01", 6)
    assert first.metric_scale and first.provenance["scale"]["source"] == "recorded"
    assert report.sequences[0].frames == 6 and report.sequences[0].metres == pytest.approx(1.0)
    check_for_training(first, "here")
    assert report.skipped == {"less than 0.19 m and 5° from the last keyframe": 30}
    assert report.warnings == ["gap of 3.1 s after frame 29: split there"]
    standing, none = extract(bag, tmp_path, keyframe_metres=5.0)
    assert not none and standing.status == "failed"
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


def test_bad_messages_of_any_type_are_left_out_and_counted_once(tmp_path: Path) -> None:
    """Of every type one that is cut short and one that says nothing usable, each at the time of the sixth frame."""
    points, at = np.ones((5, 3), np.float32), START + SECOND // 2
    blind, empty = cloud(points), odometry("odom", "base_link", (1e30, 0.0, 0.0), at)
    blind.header, blind.fields = header(at, "lidar"), blind.fields[1:]
    bad = {
        ("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage"): compressed(
            b"no picture", "jpeg", stamp_ns=at
        ),
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
    assert (report.status, report.problems, len(sequence)) == ("complete", [], 12)
    assert [index for index in range(12) if sequence.lidar(index) is None] == [5]
    assert {topic for topic, _ in bad} == {reason.partition(": ")[0] for reason in report.skipped}
    assert len(report.skipped) == 10 and set(report.skipped.values()) == {1}, report.skipped
    assert all(reason in summary_table([report]) for reason in report.skipped)


def cut_short(path: Path) -> Path:
    record(path, 40)
    (file,) = path.glob("*.mcap")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    return path


def links_in_a_circle(folder: Path) -> list[Path]:
    """A link that leads to itself, and a folder with two such: to itself, and to its own folder."""
    (folder / "loop").symlink_to("loop")
    (folder / "loops").mkdir()
    (folder / "loops" / "a.mcap").symlink_to("a.mcap")
    (folder / "loops" / "above.mcap").symlink_to(folder / "loops")
    return [folder / "loop", folder / "loops"]


def test_one_bad_bag_never_stops_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.bag").write_text("this is no bag")
    blind = recorded(tmp_path / "blind", lambda made: [made.static(), made.pose(0), made.image(0)])
    circle = recorded(
        tmp_path / "circle",
        lambda made: [made.static(), made.static("camera_optical", "base_link"), *map(made.moment, range(8))],
    )
    bags = [tmp_path / "text.bag", blind, cut_short(tmp_path / "cut"), circle, tmp_path / "nowhere",
            *links_in_a_circle(tmp_path), record(tmp_path / "good", 10)]  # fmt: skip
    command = ["extract", *map(str, bags), "--output", str(tmp_path / "out"), "--set", "keyframe_metres=0.05"]
    assert cli.main(command) == 0
    reports = {name: read_report(tmp_path / "out" / name) for name in [bag.stem for bag in bags]}
    assert {name: report and report.status for name, report in reports.items()} == {
        "text": "failed", "blind": "failed", "cut": "complete", "circle": "failed", "nowhere": "failed",
        "loop": "failed", "loops": "failed", "good": "complete",
    }  # fmt: skip
    assert "no CameraInfo" in reports["blind"].problems[0]
    assert "camera_optical -> base_link -> camera_optical" in reports["circle"].problems[0]  # and not from images
    assert reports["cut"].losses and 5 < reports["cut"].sequences[0].frames < 40
    assert all("no such file" in reports[name].problems[0] for name in ("nowhere", "loop"))
    assert "the folder holds no .mcap" in reports["loops"].problems[0]
    printed = capsys.readouterr().out
    assert all(bag.name in printed for bag in bags) and "nothing extracted" in printed
    only_bad = ["extract", str(tmp_path / "text.bag"), "--output", str(tmp_path / "other")]
    assert cli.main(only_bad) == 1


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        (ZeroDivisionError("by nothing"), "defect of the program: ZeroDivisionError: by nothing"),
        (OSError(errno.EFBIG, "File too large"), "File too large. Name a place on a disk that takes larger files"),
        ("mistyped topic", "no image topic '/mistyped'"),
        ("bag moved away", "no such file"),
    ],
)
def test_a_failed_extraction_replaces_nothing(
    what: Exception | str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag, out = record(tmp_path / "bag", 12), tmp_path / "out" / "bag"
    extract(bag, tmp_path)
    (out / "00" / "images" / "notes.txt").write_text("mine")
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        if isinstance(what, Exception):
            patch.setattr(bag_module, "posed_recording", Mock(side_effect=what))
        elif what == "bag moved away":
            bag.rename(tmp_path / "away")
        changes = {"image_topics": ("/mistyped",)} if what == "mistyped topic" else {}
        report, none = extract(bag, tmp_path, **changes)
    assert not none and report.status == "failed" and problem in report.problems[0]
    assert report.problems[1] == f"the earlier extraction stays as it was: {out}"
    assert ("Traceback" in report.defect) == isinstance(what, ZeroDivisionError)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["bag", "bag.failed.json"]


def test_files_of_others_stay_where_an_extraction_is_replaced(tmp_path: Path) -> None:
    bag, out = record(tmp_path / "bag", 12), tmp_path / "out" / "bag"
    extract(bag, tmp_path)
    (out / "00" / "images" / "notes.txt").write_text("mine")
    (out.parent / "bag.failed.json").touch()
    _, (sequence,) = extract(bag, tmp_path, keyframe_metres=0.19)
    assert len(sequence) == len(list(out.glob("00/images/*/*.jpg"))) == 6
    assert (out / "00" / "images" / "notes.txt").read_text() == "mine" and [*out.parent.iterdir()] == [out]
    (out / "report.json").write_text((out / "report.json").read_text().replace('"00"', '"01"'))
    assert f"{out / '00' / 'sequence.json'}: is no file of the earlier" in extract(bag, tmp_path)[0].problems[0]


def test_finished_bags_are_left_alone_and_changed_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = record(tmp_path / "bag", 12)
    job = Job(bag, tmp_path / "out" / "bag", SETTINGS)
    first = extract_bags([job])[0]
    stamp = (job.folder / "report.json").stat().st_mtime_ns

    def again(settings: ExtractionSettings = SETTINGS) -> bool:
        nonlocal stamp
        extract_bags([Job(bag, job.folder, settings)])
        before, stamp = stamp, (job.folder / "report.json").stat().st_mtime_ns
        return stamp != before

    assert first.status == "complete" and not again()
    assert again(ExtractionSettings(keyframe_metres=0.2))
    assert again() and not again()
    (file,) = bag.glob("*.mcap")
    os.utime(file, ns=(1, 1))
    assert again()
    (other,) = extract_bags([dataclasses.replace(job, bag=record(tmp_path / "other" / "bag", 8))])
    assert other.status == "failed" and f"holds the extraction of {bag}" in other.problems[0]
    assert len(PosedSequence.load(job.folder / "00")) == 12
    (job.folder / "report.json").unlink()
    with pytest.raises(SequenceError, match="holds no extracted bag"):
        finished_report(job)
    assert extract_bags([job])[0].problems[0].startswith(str(job.folder))


def test_interrupted_extraction_leaves_nothing_and_is_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(record(tmp_path / "bag", 12), tmp_path / "out" / "bag", SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(PosedSequence, "save", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extract_bags([job])
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out" / ".bag.0123abcd.part" / "00").mkdir(parents=True)  # what a process that was killed leaves
    assert extract_bags([job])[0].status == "complete"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bag"]


FISHEYE = Camera(80.0, 80.0, 99.5, 74.5, 200, 150, "equidistant", (0.0, 0.0, 0.0, 0.0))


def test_fisheyes_are_rectified_and_masked(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(6), {"front": (FISHEYE, IDENTITY)})
    ego, files = np.zeros((150, 200), np.uint8), [tmp_path / "ego.png", tmp_path / "small.png"]
    ego[110:, 60:140] = 255
    for file, drawn in zip(files, (ego, ego[::2]), strict=True):
        cv2.imwrite(str(file), drawn)
    _, (sequence,) = extract(bag, tmp_path, ego_masks=(("front", str(files[0])),))
    camera = sequence.cameras["front"]
    assert camera.distortion_model == "none" and (camera.width, camera.height) == (191, 150)
    assert sequence.image(0, "front").shape == (150, 191, 3)
    validity, mask = sequence.asset(0, "validity_front"), sequence.asset(5, "ego_front")
    assert validity is not None and mask is not None
    assert validity.shape == mask.shape == (150, 191) and validity.any()
    pixels, seen = FISHEYE.project(camera.unproject(camera.pixel_centres()))
    column, row = np.rint(pixels).astype(int).clip(0, [199, 149])[::8, ::8].reshape(-1, 2).T
    assert (mask[::8, ::8].reshape(-1) == (ego[row, column] > 0))[seen[::8, ::8].reshape(-1)].mean() > 0.98
    assert len(list((tmp_path / "out" / "bag" / "00" / "assets" / "ego_front").iterdir())) == 1  # of all frames
    for name, file, problem in (
        ("rear", files[0], "no camera rear"),
        ("front", files[1], "mask is 200x75, images are"),
    ):
        assert problem in extract(bag, tmp_path, ego_masks=((name, str(file)),))[0].problems[0]


# ---- without poses


def test_poses_out_of_images_with_the_scale_of_the_wheels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One camera and wheels that nothing connects with it."""
    pytest.importorskip("pycolmap")
    poseless = write_bag(tmp_path / "bag", drive(9), {"front": (CAMERA, IDENTITY)}, tf=False, wheel_odometry=True)
    report, (sequence,) = extract(poseless, tmp_path, camera_height=2 * HEIGHT_ABOVE_GROUND)
    error, scale = aligned_error(positions(sequence), positions_of(drive(9), sequence))
    assert error < 0.05 and scale == pytest.approx(1.0, abs=0.03)
    assert sequence.pose_source == "structure from motion" and sequence.metric_scale
    assert report.sequences[0].scale == "odometry" and report.skipped["/odom: damaged message"] == 1
    assert any("no recorded poses, so they come from the images" in warning for warning in report.warnings)
    assert "bag: no recorded poses, so they come from the images" in capsys.readouterr().err  # before that takes long
    assert any(warning.startswith("by the camera height everything would be 2.") for warning in report.warnings)
    check_for_training(sequence, "here")
    assert "odometry (" in summary_table([report])


def test_what_cannot_be_placed_is_reported(tmp_path: Path) -> None:
    """A drive whose last third is a blank wall."""
    pytest.importorskip("pycolmap")
    made = write_bag(tmp_path / "made", drive(9), {"front": (CAMERA, IDENTITY)}, tf=False)
    with BagReader(made) as reader, BagWriter(tmp_path / "bag") as writer:
        for index, recorded in enumerate(reader.messages()):
            message = recorded.message
            if recorded.topic.endswith("image_raw") and index >= 12:
                message.data = np.full_like(message.data, 90)
            writer.write(recorded.topic, recorded.type, message, recorded.stamp_ns)
    report, (sequence,) = extract(tmp_path / "bag", tmp_path)
    assert len(sequence) == 6
    assert "could not place 3 of 9 keyframes: " in report.problems[0]
    assert report.skipped["keyframe that structure from motion could not place"] == 3


def positions_of(poses: list[RigidTransform], sequence: PosedSequence) -> np.ndarray:
    """True positions of the frames that were kept, by their stamps at 10 Hz."""
    start = sequence.frames[0].stamp_ns
    return np.stack([poses[round((frame.stamp_ns - start) / 1e8)].translation for frame in sequence.frames])


# ---- recorded drives, and many at once


def test_a_recorded_drive_without_its_poses(shared_data: Path, tmp_path: Path) -> None:
    """20 frames of KITTI 00: by the height of its camera the path has its length, and the recorded shape."""
    pytest.importorskip("pycolmap")
    source = shared_data / "rosbag2" / "kitti00_gray_100f"
    with BagReader(source) as reader, BagWriter(tmp_path / "bag") as writer:
        truth = sequence_from_bag(reader)
        stop = truth.frames[20].stamp_ns
        for recorded in reader.messages():
            if recorded.topic.startswith("/camera") and stamp_of(recorded.message.header) < stop:
                writer.write(recorded.topic, recorded.type, recorded.cdr, recorded.stamp_ns)
    report, (sequence,) = extract(tmp_path / "bag", tmp_path, camera_height=1.65, sfm_width=500)
    at = {frame.stamp_ns: frame.world_from_rig.translation for frame in truth.frames}
    expected = np.stack([at[frame.stamp_ns] for frame in sequence.frames])
    error, scale = aligned_error(positions(sequence), expected)
    assert (
        len(sequence) >= 15 and error < 0.25
    )  # of 16 m; most of it is the official trajectory, rough in its beginning
    assert scale == pytest.approx(1.0, abs=0.08)
    assert report.sequences[0].scale == "camera height"


class Deadly(Job):
    """A bag that kills the process which is told to extract it."""

    def __reduce__(self) -> Any:
        return _killed, ()


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", ["processes", "cluster"])
def test_bags_elsewhere_come_out_as_here_and_a_process_that_dies_fails_its_bag_alone(
    elsewhere: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("cluster") if elsewhere == "cluster" else None
    bags = [record(tmp_path / f"bag{count}", count) for count in (8, 9, 10)]

    def jobs(output: str, kinds: list[type[Job]]) -> list[Job]:
        folders = [tmp_path / output / bag.stem for bag in bags]
        return [kind(bag, folder, SETTINGS) for kind, bag, folder in zip(kinds, bags, folders, strict=True)]

    def files(output: str) -> dict[str, bytes]:
        found = [path for path in (tmp_path / output).rglob("*") if path.is_file() and path.name != "report.json"]
        return {str(path.relative_to(tmp_path / output)): path.read_bytes() for path in found}

    if address:
        what = "takes 3 cores, and no machine of the cluster has more than 2"
        with pytest.raises(SceneCompletionError, match=what):
            extract_bags([dataclasses.replace(jobs("there", [Job] * 3)[0], threads=3)], ray_address=address)
    reports = extract_bags(jobs("there", [Job, Deadly, Job]), 2, address)
    assert [report.status for report in reports] == ["complete", "failed", "complete"]
    assert "died" in reports[1].problems[0]
    assert extract_bags(jobs("there", [Job, Job, Job]), 2, address)[1].status == "complete"
    extract_bags(jobs("here", [Job, Job, Job]))
    assert files("here") == files("there")


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = Job(record(tmp_path / "bag"), tmp_path / "out" / "bag", SETTINGS)
    with pytest.raises(SceneCompletionError, match=f"--ray-address {address}: no Ray cluster answers.*`ray status`"):
        extract_bags([job], ray_address=address)


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera-height", "-1"], "--camera-height: -1.0 is outside"),
        (["--set", "min_frames=1"], "--set min_frames: 1 is outside"),
        (["--set", "min_frames=few"], "'few' is no value of it"),
        (["--set", "frames=5"], "no KEY=VALUE of an extraction"),
        (["--workers", "0"], "--workers, --threads"),
        (["--ego-mask", "front"], "'front' is no NAME=FILE"),
    ],
)
def test_impossible_options_are_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["extract", "bag", "--output", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


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
    write_drive_bag(saved, tmp_path / "bag", cameras=("camera_left",), lidar_every=2)
    command = ["extract", str(tmp_path / "bag"), "--output", str(tmp_path / "out"), "--set", "keyframe_metres=0.1"]
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
