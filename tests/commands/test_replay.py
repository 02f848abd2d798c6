import dataclasses
import html
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability

from scene_completion_ros.bags import reader
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import STREET, BagWriter
from scene_completion_ros.cli import main
from scene_completion_ros.commands.replaying import LEGEND_TOPIC, VOXELS_TOPIC, went_well
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.report.writer import ReportWriter
from scene_completion_ros.ros import topics
from scene_completion_ros.voxels.cloud import cloud_array_from_message
from tests.bags import recordings
from tests.bags.recordings import picture, transform
from tests.checkout import ROOT, full_disk, next_domain
from tests.commands.conftest import CAMERA_HEIGHT
from tests.commands.recordings import FRAME, POLE, START_NS, STEP_NS, TOPIC, record, write_camera_info
from tests.inference.small_bundle import CANONICAL, class_colours, class_names
from tests.report.pages import embedded_frames, lidar_of, matches_of, word_buttons


def replay(bag: Path, output: Path, bundle: StudentBundle, *more: str) -> int:
    return main(["replay", str(bag), "--bundle", str(bundle.folder), "--output", str(output), *more])


def statistics_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "statistics.json").read_text())
    return found


def test_offline_replay_writes_bag_report_and_statistics_and_draws_the_lidar(
    tmp_path: Path, flat_road: StudentBundle
) -> None:
    bag, output = record(tmp_path / "drive"), tmp_path / "out"
    assert replay(bag, output, flat_road, "--offline") == 0
    statistics = statistics_of(output)
    assert statistics["frames_in"] == statistics["frames_out"] == 3
    assert statistics["frames_empty"] == 0
    assert {"resample", "encode", "query", "march", "assemble", "label", "total"} == set(statistics["latency_ms"])
    assert len(list((output / "report" / "frames").glob("*_camera.jpg"))) == 3
    frame, *_ = embedded_frames(output / "report" / "index.html")
    points = lidar_of(frame)
    standing = points[points[:, 2] > points[:, 2].min() + 0.3]
    assert standing[:, :2].mean(axis=0) == pytest.approx(POLE[0, :2], abs=0.1)
    with BagReader(output / "bag") as reader:
        messages = list(reader.messages([VOXELS_TOPIC]))
        assert [message.stamp_ns for message in messages] == [START_NS + i * STEP_NS for i in range(3)]
        cloud = cloud_array_from_message(messages[1].message)
        header = messages[1].message.header
        assert {one.message.header.frame_id for one in reader.messages([topics.default_name(topics.IMAGE)])} == {FRAME}
        for frame in (STREET, "lidar"):  # a viewer can open it alone
            reader.tf_buffer().lookup(frame, FRAME, START_NS)
    assert header.frame_id == FRAME
    assert header.stamp.sec * 1_000_000_000 + header.stamp.nanosec == START_NS + STEP_NS
    assert len(cloud) > 10_000
    assert cloud["y"].min() > 1.6  # optical frame: the road is below the camera
    assert cloud["z"].min() > 0.0


@pytest.mark.parametrize("offline", [["--offline"], []], ids=["offline", "node"])
def test_what_speaks_against_the_calibration_is_a_warning(
    tmp_path: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str], offline: list[str]
) -> None:
    scale = CANONICAL.resized(CANONICAL.width * 5 // 4, CANONICAL.height * 5 // 4)
    wrong = replace(scale, width=CANONICAL.width, height=CANONICAL.height)
    bag, output = record(tmp_path / "drive", camera=wrong), tmp_path / "out"
    assert replay(bag, output, flat_road, *offline) == 0
    said = re.search(
        "warning: .*(principal point lies far from the middle of the image .* times larger, .*)",
        capsys.readouterr().err,
    )
    assert said and said[1] in (output / "report" / "index.html").read_text("utf-8")
    statistics = statistics_of(output)
    assert statistics["frames_out"] == 3 and sum("principal point" in one for one in statistics["warnings"]) == 1


def test_images_that_are_turned_against_tf_are_a_warning(
    tmp_path: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = partial(recordings.turning, mount=OPTICAL_FROM_FORWARD.inverse(), turned=True)
    bag, output = recordings.recorded(tmp_path / "drive", drive), tmp_path / "out"
    assert replay(bag, output, flat_road, "--offline") == 0
    warning = "by their motion the images of /camera/image_raw/compressed are turned by 180° against tf: of "
    assert f"warning: {warning}" in capsys.readouterr().err
    assert any(one.startswith(warning) for one in statistics_of(output)["warnings"])


def test_without_a_bag_it_is_the_bundled_drive_with_words(
    tmp_path: Path, wordy_road: StudentBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "DEMO_DRIVE", record(tmp_path / "drive", frames=2))
    command = ["replay", "--offline", "--output", str(tmp_path / "out"), "--bundle", str(wordy_road.folder)]
    assert main(command) == 0
    page = (tmp_path / "out" / "report" / "index.html").read_text("utf-8")
    assert '"words":["car","tree","zebra crossing"]' in page  # of the words that are asked for, the bank holds these


@pytest.mark.parametrize(
    ("given", "came", "empty", "bundled", "well"),
    [(10, 8, 0, True, True), (10, 7, 0, True, False), (10, 10, 1, True, False), (10, 1, 1, False, True)]
    + [(10, 0, 0, False, False), (0, 0, 0, True, False)],
)
def test_when_a_replay_goes_well(given: int, came: int, empty: int, bundled: bool, well: bool) -> None:
    statistics = {"frames_in": given, "frames_out": came, "frames_empty": empty}
    assert went_well(statistics, bundled=bundled) == well


def test_unusable_images_are_dropped_and_counted(tmp_path: Path, short_road: StudentBundle) -> None:
    bag, output = record(tmp_path / "drive", frames=2, broken=True), tmp_path / "out"
    assert replay(bag, output, short_road, "--offline") == 0
    statistics = statistics_of(output)
    assert statistics["frames_in"] == 5
    assert statistics["frames_out"] == 2
    assert sum(statistics["dropped"].values()) == 3
    assert statistics["dropped"]["stamp went back"] == statistics["dropped"]["bad image"] == 1
    smaller, late, unknown = statistics["warnings"]
    assert smaller.startswith("dropped (bad image): /camera/image_raw: width, height: the image is ")
    assert re.fullmatch(r"dropped \(stamp went back\): /camera/image_raw: stamp \d+ ns is \d+\.0 ms before.*", late)
    assert unknown == "dropped (bad image): /camera/image_raw: unknown encoding 'smell8'"
    assert len(statistics["unusable_messages"]) == 1


def test_a_terminated_replay_keeps_what_it_has(tmp_path: Path, flat_road: StudentBundle) -> None:
    wide = dataclasses.replace(CANONICAL, fx=300.0, fy=300.0)
    bag, output = record(tmp_path / "drive", frames=200, camera=wide), tmp_path / "out"
    command = [sys.executable, "-m", "scene_completion_ros.cli", "replay", str(bag), "--offline"]
    command += ["--output", str(output), "--bundle", str(flat_road.folder)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list((output / "report" / "frames").glob("*_camera.jpg"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "scene-completion replay: interrupted"
    pictures = len(list((output / "report" / "frames").glob("*_camera.jpg")))
    page = (output / "report" / "index.html").read_text("utf-8")
    shown = re.search(r"Interrupted after (\d+) frames", page)
    assert shown
    assert pictures - 1 <= int(shown.group(1)) <= pictures  # the last one may have been half written
    statistics = statistics_of(output)
    assert statistics["interrupted"]
    (warning,) = statistics["warnings"]
    assert "take a longer lens" in warning and html.escape(warning) in page
    assert pictures - 1 <= statistics["frames_out"] <= pictures + 1
    assert statistics["occupied_voxels_median"] > 0
    with BagReader(output / "bag") as reader:
        assert reader.losses == []
        assert len(list(reader.messages([VOXELS_TOPIC]))) >= pictures


@pytest.fixture
def former(tmp_path: Path, short_road: StudentBundle) -> dict[str, bytes]:
    """Replay into tmp_path / "out", with scores that are the user's, and a file of theirs."""
    output = tmp_path / "out"
    assert replay(record(tmp_path / "drive", frames=1), output, short_road, "--offline") == 0
    for name in ("scores.md", "notes.txt"):
        (output / name).write_text("mine")
    return contents(output)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_results_are_replaced_only_with_the_option_by_a_replay_that_went_well(
    tmp_path: Path,
    short_road: StudentBundle,
    former: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    again = (record(tmp_path / "more", frames=2), output, short_road, "--offline")
    assert replay(*again) == 2
    said = "bag, report, scores.json, 2 more exist already. Name another folder, or replace former results with"
    assert f"--output {output}: {said} --overwrite" in capsys.readouterr().err
    assert replay(*again, "--overwrite", "--bundle", "strret") == 2
    assert "Did you mean street?" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(ReportWriter, "add_frame", Mock(side_effect=[None, KeyboardInterrupt]))
        assert replay(*again, "--overwrite") == 130
    with monkeypatch.context() as patch:
        patch.setattr(BagReader, "images", lambda *_: iter(()))
        assert replay(*again, "--overwrite") == 2
    said = f"{output}: frames that came out: 0 of 0; the former results stay. See why with another --output"
    assert said in capsys.readouterr().err
    assert contents(output) == former
    assert replay(*again, "--overwrite") == 0
    assert f"{output}/report/index.html" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {name.partition("/")[0] for name in former}
    assert statistics_of(output)["frames_out"] == 2 and (output / "notes.txt").read_text() == "mine"
    assert (output / "scores.md").read_text().startswith("# Scores of more")


def test_a_killed_replay_leaves_the_former_results(
    tmp_path: Path, short_road: StudentBundle, former: dict[str, bytes]
) -> None:
    bag, output = record(tmp_path / "long", frames=200), tmp_path / "out"
    command = [sys.executable, "-m", "scene_completion_ros.cli", "replay", str(bag), "--offline", "--overwrite"]
    command += ["--output", str(output), "--bundle", str(short_road.folder)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list(output.glob(".*/*/report/frames/*_camera.jpg")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = {name: content for name, content in contents(output).items() if not name.startswith(".")}
    assert kept == former


def test_words_are_answered_in_the_report(tmp_path: Path, wordy_road: StudentBundle) -> None:
    bag, output = record(tmp_path / "drive"), tmp_path / "out"
    assert replay(bag, output, wordy_road, "--offline", "--words", "zebra crossing,car,tree") == 0
    page = output / "report" / "index.html"
    completer = Completer(wordy_road, CANONICAL)
    bank = wordy_road.text_bank()
    completer.set_query(completer.prepare_vocabulary(bank.query(["zebra crossing", "car", "tree"])))
    with BagReader(bag) as reader:
        images = [image.image_rgb for image in reader.images(TOPIC)]
    frames = embedded_frames(page)
    assert len(frames) == 3
    found = set()
    for frame, image in zip(frames, images, strict=True):
        expected = [len(found.voxels) for found in completer.complete(image).matches]
        assert matches_of(frame, 3).sum(axis=1).tolist() == expected
        assert sum(expected) > 1000
        found |= {str(place) for place, count in enumerate(expected) if count}
    assert word_buttons(page).keys() == found


def test_dds_gives_same_voxels_and_warnings(
    tmp_path: Path, labelled_road: StudentBundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    monkeypatch.setenv("ROS_DOMAIN_ID", next_domain())
    long_lens = dataclasses.replace(CANONICAL, fx=505.6, fy=505.6)  # 0.79 of the width
    bag, output = record(tmp_path / "drive", frames=6, camera=long_lens, dark=(2, 4)), tmp_path / "out"
    assert replay(bag, output, labelled_road, "--every", "2") == 0
    assert statistics_of(output)["frames_out"] == 3
    assert len(list((output / "report" / "frames").glob("*_camera.jpg"))) == 3
    shown = [capsys.readouterr()]
    assert replay(bag, tmp_path / "offline", labelled_road, "--offline", "--every", "2") == 0
    shown.append(capsys.readouterr())
    for said, folder in zip(shown, (output, tmp_path / "offline"), strict=True):
        lens, covered, dark = statistics_of(folder)["warnings"]
        assert lens.startswith("focal length / image width is 0.790") and "docs/training.md#another-camera" in lens
        assert covered.startswith("the image covers 54 % of the canonical view")
        assert dark.startswith("only 0 % of the image shows anything") and dark.endswith("(2 times)")
        page = html.unescape((folder / "report" / "index.html").read_text("utf-8"))
        for number, warning in enumerate((lens, covered, dark), 1):
            assert re.search(rf"(?m)^warning {number} +{re.escape(warning)}$", said.out)
            assert said.err.count(f"warning: {warning.removesuffix(' (2 times)')}\n") == 1
            assert page.count(warning) == 1
    clouds = []
    legend = {"class_names": list(class_names(3)), "class_colours": list(map(list, class_colours(3)))}
    for folder in (output, tmp_path / "offline"):
        page = (folder / "report" / "index.html").read_text("utf-8")
        for name, colour in zip(*legend.values(), strict=True):
            assert f'rgb({colour[0]},{colour[1]},{colour[2]})"></i>{name}</span>' in page
        with BagReader(folder / "bag") as reader:
            topic = VOXELS_TOPIC
            (said,) = reader.messages([LEGEND_TOPIC])
            assert json.loads(said.message.data) == legend
            clouds.append([cloud_array_from_message(message.message) for message in reader.messages([topic])])
        with AnyReader([folder / "bag"]) as recording:
            (connection,) = (one for one in recording.connections if one.topic == LEGEND_TOPIC)
            assert [qos.durability for qos in connection.ext.offered_qos_profiles] == [QosDurability.TRANSIENT_LOCAL]
    for over_dds, offline in zip(*clouds, strict=True):
        assert np.array_equal(over_dds, offline)
        assert len(np.unique(offline["label"])) > 1


def test_what_does_not_fit_on_the_disk_is_one_line_and_the_rest_stays(
    tmp_path: Path, short_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, output = record(tmp_path / "drive", frames=3), tmp_path / "out"
    with full_disk(20_000):
        assert replay(bag, output, short_road, "--offline") == 2
    assert re.search(r"(?m)^scene-completion replay: \S+: File too large\. Name a place.*\n\Z", capsys.readouterr().err)
    assert not list(output.rglob("*.part"))


def test_depth_is_scored_against_the_recordings_lidar(tmp_path: Path, flat_road: StudentBundle) -> None:
    """The student sees a flat road and no pole: the depth behind a point of the pole is that of the road there."""
    bag, output = record(tmp_path / "drive"), tmp_path / "out"
    assert replay(bag, output, flat_road, "--offline") == 0
    distance, below_camera = POLE[:, 0], -POLE[:, 2] - 1.0  # the LiDAR stands a metre above the camera
    with np.errstate(divide="ignore"):
        road = np.where(below_camera > 0.0, distance * CAMERA_HEIGHT / below_camera, np.inf)
    seen = np.where(road < 51.2, road, 80.0)  # the default grid ends there, and what is too far counts as 80 m
    scores = json.loads((output / "scores.json").read_text(encoding="utf-8"))["depth"]
    (errors,) = [row for row in scores if row["pixels"] == "all pixels"]
    assert (errors["recordings"], errors["frames"], errors["covered"]) == ("lidar", 3, 1.0)
    assert errors["a1"] == pytest.approx(float(np.mean(seen / distance < 1.25)))
    assert errors["abs_rel"] == pytest.approx(float(np.mean((seen - distance) / distance)), rel=0.02)
    assert statistics_of(output)["scores"]["depth against lidar"]["a1"] == errors["a1"]
    page = (output / "report" / "index.html").read_text(encoding="utf-8")
    assert "depth against lidar" in page
    assert "| node | 3 | all pixels | 100.0 |" in (output / "scores.md").read_text(encoding="utf-8")


def test_parameters_of_a_robot_that_are_wrong_are_named(
    tmp_path: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, robot = record(tmp_path / "drive", frames=1), tmp_path / "robot.yaml"
    robot.write_text("/**: {ros__parameters: {threads: 2.5}}\n", encoding="utf-8")
    assert replay(bag, tmp_path / "out", flat_road, "--params-file", str(robot)) == 2
    assert "robot.yaml: parameter threads: 2.5 is of type double" in capsys.readouterr().err


def test_a_folder_that_is_no_ground_truth_is_refused_before_anything_is_written(
    tmp_path: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, output = record(tmp_path / "drive", frames=1), tmp_path / "out"
    assert replay(bag, output, flat_road, "--offline", "--ground-truth", str(tmp_path)) == 2
    assert "is no recording" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("more", [("--offline",), ()])
def test_images_of_a_body_frame_are_replayed_in_its_optical_child(
    tmp_path: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    width, height = CANONICAL.width, CANONICAL.height
    with BagWriter(tmp_path / "drive") as writer:
        mounts = (
            ("base", "camera_link", RigidTransform.identity()),
            ("camera_link", "optical", OPTICAL_FROM_FORWARD.inverse()),
        )
        for parent, child, turn in mounts:
            message = transform(parent, child, (0.0, 0.0, 1.0), START_NS, turn=turn)
            writer.write("/tf_static", "tf2_msgs/msg/TFMessage", message, START_NS)
        for number in range(3):
            now = START_NS + number * STEP_NS
            writer.write("/tf", "tf2_msgs/msg/TFMessage", transform("map", "base", (number, 0.0, 0.0), now), now)
            write_camera_info(writer, CANONICAL, now)
            pixels = picture(number, width, height)
            message = recordings.image(pixels, "rgb8", width=width, height=height, stamp_ns=now, frame_id="camera_link")
            writer.write(TOPIC, "sensor_msgs/msg/Image", message, now)
    assert replay(tmp_path / "drive", tmp_path / "out", flat_road, *more) == 0
    sentence = f"{TOPIC}: images name 'camera_link', which is the frame of a body by its axes in tf"
    assert f"warning: {sentence}" in capsys.readouterr().err
    assert sentence in html.unescape((tmp_path / "out" / "report" / "index.html").read_text("utf-8"))
    with BagReader(tmp_path / "out" / "bag") as reader:
        assert {one.message.header.frame_id for one in reader.messages([VOXELS_TOPIC])} == {"optical"}
        reader.tf_buffer().lookup(STREET, "optical", START_NS)
