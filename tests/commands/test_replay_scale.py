"""What a replay does with how the camera moved: the same through the node and without it, in pictures and numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.cli import main
from scene_completion_ros.commands.replaying import VOXELS_TOPIC
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.voxels.cloud import cloud_array_from_message
from tests.bags.recordings import SECOND, START, odometry, transform
from tests.checkout import next_domain
from tests.commands.recordings import write_camera_info, write_image
from tests.inference.known_mounting_bundle import CAMERA, FACTOR, make_known_mounting_bundle, wall_from
from tests.report.pages import embedded_frames

FRAMES, STEP_M = 8, 0.4


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_known_mounting_bundle(tmp_path_factory.mktemp("bundle") / "student")


def record(path: Path, *, moving: str, images: int = FRAMES) -> Path:
    """A camera that drives along a wall, x to its right; `moving`: what says so, "tf", "odometry" or none."""
    with BagWriter(path) as writer:
        mount = transform("base", "camera_optical", (0.0, 0.0, 1.5))
        writer.write("/tf_static", "tf2_msgs/msg/TFMessage", mount, START)
        for number in range(images):
            now = START + number * SECOND // 10
            place = (STEP_M * number, 0.0, 0.0)
            if moving == "tf":
                writer.write("/tf", "tf2_msgs/msg/TFMessage", transform("map", "base", place, now), now)
            elif moving == "odometry":
                writer.write("/odom", "nav_msgs/msg/Odometry", odometry("odom", "base", place, now), now)
            write_camera_info(writer, CAMERA, now)
            write_image(writer, wall_from(place[0]), now, now)
    return path


def replay(bag: Path, output: Path, bundle: StudentBundle, *more: str) -> dict[str, Any]:
    command = ["replay", str(bag), "--output", str(output), "--bundle", str(bundle.folder), "--engine", "onnxruntime"]
    assert main([*command, *more]) == 0
    found: dict[str, Any] = json.loads((output / "statistics.json").read_text())
    return found


def clouds(output: Path) -> list[bytes]:
    with BagReader(output / "bag") as reader:
        return [cloud_array_from_message(one.message).tobytes() for one in reader.messages([VOXELS_TOPIC])]


@pytest.mark.parametrize("moving", ["tf", "odometry"])
def test_the_recorded_motion_gives_the_scale(tmp_path: Path, student: StudentBundle, moving: str) -> None:
    bag = record(tmp_path / "drive", moving=moving)
    scale = replay(bag, tmp_path / "out", student, "--offline")["scale_by_motion"]
    assert scale["by_frame"][0] is None and scale["not_measured"]["no image yet"] == 1
    factor, deviation = scale["by_frame"][-1]
    assert factor == pytest.approx(FACTOR, rel=0.05) and 0.0 < deviation < 0.1
    known = sum(one is not None for one in scale["by_frame"])
    assert scale["frames"] == known >= 3 and len(scale["by_frame"]) == FRAMES
    page = tmp_path / "out" / "report" / "index.html"
    said = [frame["evidence"] for frame in embedded_frames(page)]
    assert said[0] == "no scale (last image: no image yet)"
    assert said[-1].startswith(f"scale {factor:.3f} ± {deviation * factor:.3f}")
    assert "corners with a depth" in said[-1]
    replay(bag, tmp_path / "scale", student, "--offline", "--scale-from", "odometry")
    assert not any(
        "corners with" in frame["evidence"] for frame in embedded_frames(tmp_path / "scale/report/index.html")
    )
    nothing = replay(bag, tmp_path / "off", student, "--offline", "--scale-from", "off")
    assert "scale_by_motion" not in nothing
    first, *_, last = zip(clouds(tmp_path / "out"), clouds(tmp_path / "off"), strict=True)
    assert first[0] == first[1] and last[0] != last[1]


def test_the_reason_of_no_scale_is_one_line(
    tmp_path: Path, student: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = replay(record(tmp_path / "drive", moving=""), tmp_path / "out", student, "--offline")["scale_by_motion"]
    assert scale["not_measured"] == {"no image yet": 1, "no odometry: the camera's motion is unknown": FRAMES - 1}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: no scale by motion")]
    assert "tf does not say how 'camera_optical' moves" in line
    assert "No scale by motion: " in (tmp_path / "out" / "report" / "index.html").read_text("utf-8")


def test_the_node_and_the_offline_replay_agree(
    tmp_path: Path, student: StudentBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    monkeypatch.setenv("ROS_DOMAIN_ID", next_domain())
    bag = record(tmp_path / "drive", moving="tf")
    offline = replay(bag, tmp_path / "offline", student, "--offline")["scale_by_motion"]
    pages = [tmp_path / run / "report" / "index.html" for run in ("offline", "first")]
    for run in ("first", "second"):
        assert replay(bag, tmp_path / run, student)["scale_by_motion"] == offline
        assert clouds(tmp_path / run) == clouds(tmp_path / "offline")
    raw = []
    for run in ("first", "second"):
        raw.append({file.name: file.read_bytes() for file in (tmp_path / run / "bag").iterdir()})
    assert raw[0] == raw[1]
    for page in pages:
        assert [frame["evidence"] for frame in embedded_frames(page) if "corners with" in frame["evidence"]]
    assert len(set(clouds(tmp_path / "first"))) > 3
    assert "scale_by_motion" not in replay(bag, tmp_path / "off", student, "--scale-from", "off")
    assert clouds(tmp_path / "off")[0] == clouds(tmp_path / "first")[0]
