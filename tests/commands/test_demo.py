from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.commands import demo
from scene_completion_ros.errors import BagError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.ros.replay.results import Percentiles, ReplayStatistics
from tests.report.animations import decoded
from tests.report.pages import WordButtons, embedded_frames, steps_of_matches

KITTI_TOPICS = {
    "kitti00_gray_100f": "/camera_gray_left/image_raw/compressed",
    "kitti04_stereo_lidar_10f": "/camera_color_left/image_raw/compressed",
    "kitti_raw_sfnd_cam_lidar": "/camera_color_left/image_raw/compressed",
}


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(words)


def outcome(frames_in: int = 10, frames_out: int = 10, **changes: object) -> ReplayStatistics:
    result = ReplayStatistics(topic="/camera/image_raw", frames_in=frames_in, frames_out=frames_out, rate_hz=9.5)
    result.latency_ms = {"end_to_end": Percentiles(1.0, 2.0, 3.0), "encode": None}
    result.occupied = [5, 7, 9][:frames_out]
    result.peak_memory_mib = 500.0
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def test_bundled_drive_is_small_and_complete() -> None:
    assert sum(file.stat().st_size for file in DEMO_DRIVE.iterdir()) <= 6_000_000
    with BagReader(DEMO_DRIVE) as reader:
        assert not reader.losses
        topic = demo.first_image_topic(reader, None)
        camera = reader.camera_for(topic)
        assert camera.fx / camera.width == pytest.approx(0.58, abs=0.01)
        frames = list(reader.images(topic))
        assert len(frames) == 40
        assert np.diff([frame.stamp_ns for frame in frames]) == pytest.approx(1e8)
        assert np.abs(frames[0].image_rgb.astype(int) - frames[20].image_rgb).mean() > 10
        transforms = reader.tf_buffer()
        poses = [transforms.lookup("map", frame.frame_id, frame.stamp_ns, 0) for frame in frames]
        turn = poses[0].rotation[:, 2] @ poses[-1].rotation[:, 2]
        assert turn < np.cos(0.08)
        assert len(list(reader.point_clouds("/velodyne_points"))) == 10


@pytest.mark.parametrize("name", KITTI_TOPICS)
def test_the_first_camera_of_a_recording_is_chosen(
    shared_data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagReader(shared_data / "rosbag2" / name) as reader:
        assert demo.first_image_topic(reader, None) == KITTI_TOPICS[name]
        said = capsys.readouterr().err
        assert ("/camera_color_right/image_raw/compressed" in said) == (name == "kitti04_stereo_lidar_10f")
        with pytest.raises(BagError, match="no image topic '/other'.*" + KITTI_TOPICS[name]):
            demo.first_image_topic(reader, "/other")


def test_summary_has_the_promised_fields(tmp_path: Path) -> None:
    summary = demo.summarise(outcome(), tmp_path / "index.html")
    assert json.loads(json.dumps(summary)) == {
        "frames_in": 10,
        "frames_out": 10,
        "rate_hz": 9.5,
        "latency_ms": {"end_to_end": {"p50": 1.0, "p95": 2.0, "p99": 3.0}},
        "occupied_voxels": {"min": 5, "median": 7, "max": 9},
        "peak_memory_mib": 500.0,
        "report": str(tmp_path / "index.html"),
    }
    assert demo.summarise(outcome(0, 0, occupied=[]), tmp_path)["occupied_voxels"] is None


@pytest.mark.parametrize(
    ("frames_in", "frames_out", "empty", "word"),
    [(10, 10, 0, None), (10, 8, 0, None), (10, 7, 0, "7 of 10"), (10, 10, 1, "1 of 10"), (0, 0, 0, "no image")],
)
def test_when_the_demo_fails(frames_in: int, frames_out: int, empty: int, word: str | None) -> None:
    problems = demo.find_problems({"frames_in": frames_in, "frames_out": frames_out}, empty)
    assert [word in problem for problem in problems] == ([True] if word else [])


@pytest.mark.skipif(find_spec("rclpy") is None, reason="ROS 2 is not installed")
@pytest.mark.parametrize("wordy", [False, True])
def test_the_demo_plays_through_the_node(
    flat_road: StudentBundle, wordy_road: StudentBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], wordy: bool
) -> None:
    """The first frames of the bundled drive, with LiDAR, through a node in another process."""
    with BagReader(DEMO_DRIVE) as reader, BagWriter(tmp_path / "short") as bag:
        end_ns = reader.start_ns + 250_000_000
        for recorded in reader.messages():
            if recorded.stamp_ns <= end_ns:
                bag.write(recorded.topic, recorded.type, recorded.cdr, recorded.stamp_ns)
    folder, bundle = tmp_path / "out", wordy_road if wordy else flat_road
    words = ["--bag", str(tmp_path / "short"), "--output", str(folder), "--bundle", str(bundle.folder)]
    assert demo.run(arguments(*words)) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    summary = json.loads(lines[-1])
    assert str(folder / "pictures") in lines[-2]
    assert (summary["frames_in"], summary["frames_out"]) == (3, 3)
    assert summary["occupied_voxels"]["min"] > 1000
    assert summary["latency_ms"]["end_to_end"]["p50"] > 0
    assert 0 < summary["peak_memory_mib"] < 1024
    assert Path(summary["report"]).is_file()
    assert len(list((folder / "pictures").iterdir())) >= 3
    assert decoded((folder / "drive.webp").read_bytes()).durations_ms == [100, 100, 100]
    frames = embedded_frames(folder / "index.html")
    if wordy:  # of the words that the demo asks for, the bank holds these
        assert WordButtons(folder / "index.html").words == {"0": "car", "1": "tree", "2": "zebra crossing"}
        assert all(steps_of_matches(frame).any() for frame in frames)
    else:
        assert not WordButtons(folder / "index.html").words
        assert all("matches" not in frame for frame in frames)
