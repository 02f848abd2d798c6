"""Both LiDAR protocols on a street with one wall."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.depth import DEPTH
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.truth import FrameTruth
from scene_completion_ros.sequences.frame_lists import FrameSplit
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera
from scene_completion_training.evaluation.controls import EmptyControl, surface_controls
from scene_completion_training.evaluation.geometry import depth_frames, scanned_frames
from scene_completion_training.evaluation.lidar_evaluation import (
    LIDAR_OCCUPANCY,
    LIDAR_ONLY_NEAR,
    level_scans,
    slabs_of,
)
from scene_completion_training.evaluation.predictor import Frame, Prediction, Predictor
from tests.official_layouts import write_split
from tests.sequences import test_kitti_raw
from tests.training.evaluation.one_wall import CAMERA, FRAMES, Wall, make_street, shadowed


def test_scans_of_the_following_frames_in_the_level_frame(street: PosedSequence) -> None:
    scans = list(level_scans(street, 2, 20, math.radians(5.0)))
    assert len(scans) == FRAMES - 2  # fewer near the end
    # The fourth sensor stands 3 * 0.25 m ahead on the optical axis, which points 5 degrees down.
    expected = 0.75 * np.array([0.0, math.sin(math.radians(5.0)), math.cos(math.radians(5.0))])
    np.testing.assert_allclose(scans[3].level_from_sensor.translation, expected, atol=1e-6)
    np.testing.assert_allclose(scans[0].points_sensor[:, 2], -0.3, atol=1e-6)  # 0.3 m below the sensor
    with pytest.raises(SequenceError, match="velodyne"):
        next(level_scans(replace(street, rig_from_sensor={}), 0, 3, 0.0))
    with pytest.raises(SequenceError, match="frame 0"):
        next(level_scans(make_street(assets=()), 0, 3, 0.0))


def lidar_rows(street: PosedSequence, models: Sequence[Predictor]) -> dict[tuple[str, str], dict[str, Any]]:
    """Protocol and method -> row, of the first frame after ten scans."""
    frame = Frame(street, 0, FrameTruth(None, None), slabs_of(level_scans(street, 0, 10, 0.0), 0.0))
    scores = Scores([LIDAR_OCCUPANCY])
    scores.run("street", models, [frame])
    return {(row["protocol"].partition("@")[0], row["method"]): row for row in scores.rows("lidar")}


def test_lidar_protocols_on_the_wall(street: PosedSequence) -> None:
    models = [Wall(), EmptyControl(), *surface_controls(street)[:2]]
    found = lidar_rows(street, models)
    assert all("@10, " in row["protocol"] for row in found.values())
    fair, wall = found["LiDAR only", "nothing"], found["LiDAR only", "wall"]
    # Every model is scored on the same points, and nothing is not rewarded.
    assert len({found["LiDAR only", model.name]["occluded"] for model in models}) == 1
    assert fair["O_rec"] == 0.0
    assert fair["O_acc"] < wall["O_acc"] < 1.0  # unseen is occupied here: all of the shadow
    # Ten scans from 0 to 2.25 m: the shadow, between |x| <= z / 10 .. about 4 / 10 per metre behind 10 m, is occupied.
    points = LIDAR_ONLY_NEAR.points()
    assert fair["occluded"] == pytest.approx(shadowed(points).sum(), rel=0.05)
    assert fair["IE_rec"] == 1.0  # nothing predicted is always right about what is free
    # The original protocol takes the empty field at its word: nothing is hidden, so nothing can be missed.
    empty = found["original", "nothing"]
    assert (empty["O_acc"], empty["IE_acc"], empty["IE_acc frames"]) == (1.0, None, 0)
    assert (empty["points"], empty["occluded"], empty["occupied"]) == (12_800, 0, 0)
    assert "no occluded point: O_acc says nothing" in empty["remarks"]
    assert found["original", "wall"]["occluded"] == pytest.approx(fair["occluded"], rel=0.1)
    assert found["LiDAR only, far", "wall"]["points"] < 460 * 80 + 1


@pytest.mark.parametrize(("density", "predicted"), [(0.5, 0), (0.501, 12_800)])
def test_occupied_is_more_than_the_published_cutoff(street: PosedSequence, density: float, predicted: int) -> None:
    class Even(Wall):
        def complete(self, sequence: PosedSequence, index: int) -> Prediction:
            return Prediction(CAMERA, lambda points: np.full(len(points), density, dtype=np.float32))

    row = lidar_rows(street, [Even()])["original", "wall"]
    assert (row["points"], row["predicted"]) == (12_800, predicted)


DRIVE = "2011_09_26_drive_0001_sync"
LISTED = f"2011_09_26/{DRIVE}"
OTHER = "2011_09_26_drive_0002_sync"
WALL = 12.0
LIDAR_BEHIND_CAMERA = 0.27  # metres, `test_kitti_raw.VELO_TO_CAM`
raw_drive = test_kitti_raw.drive


class FlatWall(Predictor):
    """Sees a wall across the whole image, `WALL` metres ahead."""

    name = "wall"

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        # 64 samples so near to the wall are not more than 8 cm apart.
        camera = sequence.cameras[reference_camera(sequence)]
        return Prediction(camera, lambda points: np.where(points[:, 2] >= WALL, 1e4, 0).astype(np.float32), (11, 15.5))


def write_scan(drive: Path, frame: int, depths: list[float], down: float = 0.15) -> None:
    """Returns at these z-depths of camera 2, side by side, below the principal point by `down` of the depth."""
    z = np.array(depths)
    left = (0.1 * np.arange(len(z)) - 0.1) * z
    points = np.stack([z + LIDAR_BEHIND_CAMERA, left, -0.08 - down * z, np.zeros(len(z))], axis=-1)
    points.astype("<f4").tofile(drive / "velodyne_points" / "data" / f"{frame:010d}.bin")


def listed(folder: Path, *lines: str) -> FrameSplit:
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    return FrameSplit(folder / "list.txt")


def test_errors_of_a_wall_are_means_over_frames(raw_drive: Path, tmp_path: Path) -> None:
    write_scan(raw_drive, 0, [10.0])
    write_scan(raw_drive, 1, [8.0, 16.0, 8.0, 90.0])  # what is beyond 80 m does not count
    drive = open_recording(raw_drive)
    split = FrameSplit(write_split(tmp_path / "list.txt", [f"{LISTED} 0 l", f"{LISTED} 1 l"]))
    scores = Scores([DEPTH])
    scores.run("drives", [FlatWall()], depth_frames(drive, scanned_frames(drive, split)))
    (row,) = [row for row in scores.rows("depth") if row["pixels"] == "Garg crop"]
    assert (row["method"], row["frames"]) == ("wall", 2)
    frames = [2.0 / 10.0, (4.0 / 8.0 + 4.0 / 16.0 + 4.0 / 8.0) / 3.0]
    assert row["abs_rel"] == pytest.approx(np.mean(frames), abs=0.01)
    assert row["rmse"] == pytest.approx(np.mean([2.0, 4.0]), abs=0.1)
    assert row["a1"] == 0.5  # 12 / 10 is below 1.25; 12 / 8 and 16 / 12 are not


def test_frames_with_lidar_are_scored_and_those_of_a_list_that_lack_it_are_missing(
    raw_drive: Path, tmp_path: Path
) -> None:
    drive = open_recording(raw_drive)
    assert scanned_frames(drive) == [0, 1, 2, 3]
    names = [f"{LISTED} 9 l", f"{LISTED} 1 r", f"{LISTED} 2 l", f"{LISTED} 4 l", f"{OTHER} 7 l"]
    split = FrameSplit(write_split(tmp_path / "list.txt", names))
    assert scanned_frames(drive, split) == [2]
    with pytest.raises(SequenceError, match=f"3 of its 5 frames are not in .*{LISTED} 9 l, {LISTED} 4 l, {OTHER} 7 l"):
        split.counted()
    assert split.counted(allow_missing=True).used == 2
