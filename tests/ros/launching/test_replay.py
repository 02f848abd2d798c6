"""`replay.launch.py`: what it would start, started by hand; and by launch itself where that is installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.commands import replay as replay_command
from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.ros.launching.replay import recorded_camera
from scene_completion_ros.ros.launching.rviz_config import LIVE, Shown, adapted
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_ros.voxels.cloud import cloud_array_from_message
from tests.checkout import with_this_checkout
from tests.ros.graph import REPOSITORY, NodeUnderTest
from tests.ros.launch_files import LaunchFile, node_arguments
from tests.ros.replay.test_bag_replay import CAMERA, FRAME, START_NS, STEP_NS, rough_image, write_bag

FRAMES = 3


@pytest.fixture
def replay(launch_file: Callable[[str], LaunchFile]) -> LaunchFile:
    return launch_file("replay.launch.py")


def test_only_the_recording_has_to_be_named(replay: LaunchFile) -> None:
    defaults = {name: settings["default_value"] for name, settings in replay.declared().items()}
    assert [name for name, default in defaults.items() if default is None] == ["bag"]
    assert {"params_file", "rviz", "rate", "loop", "clock", "namespace", "bundle", "ground_truth"} < set(defaults)
    parser = replay_command.argparse.ArgumentParser()
    replay_command.add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    passed_on = [name for name in defaults if f"--{name.replace('_', '-')}" in options]
    assert set(passed_on) >= {"bundle", "rate", "loop", "clock", "output", "ground_truth", "also"}


def test_what_is_started_follows_the_recording(replay: LaunchFile, tmp_path: Path, grid_file: Path) -> None:
    write_bag(tmp_path / "drive", frames=1, compressed=True)
    given = {"bag": str(tmp_path / "drive"), "namespace": "left", "also": "/tf /tf_static", "loop": "3", "clock": "50"}
    node, player, rviz = replay.started(**given, rviz="true", grid=str(grid_file))
    assert node.settings["remappings"] == [("image", "/front/image_raw"), ("camera_info", "/front/camera_info")]
    file, overrides = node.settings["parameters"]
    assert Path(file) == REPOSITORY / "config" / "scene_completion.yaml"
    assert overrides["use_sim_time"] is True
    assert overrides["image.transport"] == "compressed"
    assert (overrides["grid.frame"], overrides["cameras"]) == ("", "")  # whatever params_file says
    assert "bundle" not in overrides
    command = player.settings["cmd"]
    parser = replay_command.argparse.ArgumentParser()
    replay_command.add_arguments(parser)
    args = parser.parse_args(command[command.index("replay") + 1 :])
    assert args.bag == tmp_path / "drive"
    assert (args.node, args.image_topic) == ("/left/scene_completion", "/front/image_raw/compressed")
    assert (args.loop, args.clock, args.rate, args.also) == (3, 50.0, None, ["/tf", "/tf_static"])
    assert type(player.settings["on_exit"]).__name__ == "Shutdown"
    assert rviz.settings["parameters"] == [{"use_sim_time": True}]
    _, config, *frame = rviz.settings["arguments"]
    assert frame == ["-f", FRAME]
    shipped = (REPOSITORY / LIVE).read_text(encoding="utf-8")
    shown = Shown(FRAME, True, "/left/scene_completion", {"": "/front/image_raw"}, compressed=True, voxel_size=0.2)
    assert Path(config).read_text(encoding="utf-8") == adapted(shipped, shown)
    *_, framed = replay.started(**given, rviz="true", fixed_frame="odom", rviz_config="own.rviz")
    assert framed.settings["arguments"] == ["-d", "own.rviz", "-f", "odom"]
    assert len(replay.started(**given)) == 2


def write_truth(folder: Path, grid_file: Path) -> NDArray[np.bool_]:
    """A posed sequence with random voxels, all visible, for the first two images; returns what is occupied."""
    grid, _ = read_grid(grid_file)
    identity = RigidTransform(np.eye(3), np.zeros(3))
    occupied = np.random.default_rng(5).random((2, *grid.shape)) < 0.3
    flags = np.full(grid.shape, 1 | 2, dtype=np.uint8)
    frames = [
        Frame(
            START_NS + number * STEP_NS,
            {"front": partial(rough_image, number)},
            identity,
            {"voxel_label": partial(occupied[number].astype, np.uint8), "voxel_flags": flags.copy},
        )
        for number in range(2)
    ]
    stored = {"origin": list(grid.origin), "voxel_size": grid.voxel_size, "shape": list(grid.shape), "around": "front"}
    provenance = {"voxel_grid": stored}
    PosedSequence("truth", {"front": CAMERA}, {"front": identity}, frames, "none", provenance=provenance).save(folder)
    return occupied


def overlap(bag: Path, grid_file: Path, occupied: NDArray[np.bool_]) -> float:
    """IoU of the published voxels of the first images, from the recording of what was published."""
    grid, grid_from_camera = read_grid(grid_file)
    both = either = 0
    with BagReader(bag) as reader:
        for message, truth in zip(reader.messages(["/scene_completion/voxels"]), occupied, strict=False):
            cloud = cloud_array_from_message(message.message)
            points = np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=-1).astype(float)
            found = np.zeros(grid.shape, dtype=bool)
            found[tuple(np.asarray(grid.index_of(grid_from_camera.apply(points))[0]).T)] = True
            both, either = both + int((found & truth).sum()), either + int((found | truth).sum())
    return both / either


def test_node_and_player_as_launched_complete_and_score_every_image(
    replay: LaunchFile, tmp_path: Path, bundle_folder: Path, grid_file: Path
) -> None:
    write_bag(tmp_path / "drive", frames=FRAMES)
    occupied = write_truth(tmp_path / "truth", grid_file)
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    threads: 1\n", encoding="utf-8")
    output = tmp_path / "out"
    given = {"bag": str(tmp_path / "drive"), "bundle": str(bundle_folder), "namespace": "launched"}
    given |= {"grid": str(grid_file), "ground_truth": str(tmp_path / "truth")}
    given |= {"output": str(output), "params_file": str(parameters)}
    node, player = replay.started(**given)
    arguments = node_arguments(node, replay.context(**given))
    running = NodeUnderTest(["-m", "scene_completion_ros.ros.node", *arguments], tmp_path / "node.log")
    try:
        done = subprocess.run(
            player.settings["cmd"], env=with_this_checkout(), timeout=240, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stderr}\n{running.log}"
        assert running.end() == 0
    finally:
        running.close()
    statistics = json.loads((output / "statistics.json").read_text(encoding="utf-8"))
    assert (statistics["frames_in"], statistics["frames_out"]) == (FRAMES, FRAMES)
    assert (output / "report" / "index.html").is_file()
    scores = json.loads((output / "scores.json").read_text(encoding="utf-8"))["voxels"]
    found = {row["region"]: row for row in scores if (row["recordings"], row["range_m"]) == ("truth", 6.4)}
    assert found["all"]["frames"] == 2
    assert 0.0 < found["all"]["iou"] < 1.0
    assert found["all"]["iou"] == pytest.approx(overlap(output / "bag", grid_file, occupied))
    assert found["visible"]["iou"] == found["all"]["iou"]
    assert statistics["scores"]["voxels against truth, 6.4 m"]["iou"] == found["all"]["iou"]
    assert "| node | 2 | published | all |" in (output / "scores.md").read_text(encoding="utf-8")


def test_a_recording_without_calibration_is_refused(tmp_path: Path) -> None:
    write_bag(tmp_path / "drive", frames=1, camera_info=False)
    with pytest.raises(BagError, match="camera_info_topic"):
        recorded_camera(tmp_path / "drive")
