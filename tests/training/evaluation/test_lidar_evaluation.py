"""Both LiDAR protocols on a street with one wall."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.lidar_occupancy import LIDAR_ONLY_NEAR
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.truth import FrameTruth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.controls import EmptyControl, surface_controls
from scene_completion_training.evaluation.density_model import DensityModel, Observation
from scene_completion_training.evaluation.geometry import Density, Frame
from scene_completion_training.evaluation.lidar_evaluation import LIDAR_OCCUPANCY, camera_pitch, level_scans, slabs_of
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


def test_camera_pitch_is_known_of_kitti_360_only(street: PosedSequence) -> None:
    assert camera_pitch(street) == 0.0
    assert camera_pitch(replace(street, provenance={"dataset": "KITTI-360"})) == pytest.approx(math.radians(5.0))


def lidar_rows(street: PosedSequence, models: Sequence[DensityModel]) -> dict[tuple[str, str], dict[str, Any]]:
    """Protocol and method -> row, of the first frame after ten scans."""
    frame = Frame(street, 0, FrameTruth(None, None), slabs_of(level_scans(street, 0, 10, 0.0), 0.0))
    scores = Scores([LIDAR_OCCUPANCY])
    scores.run("street", [Density(model) for model in models], [frame])
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
        def observe(self, sequence: PosedSequence, index: int) -> Observation:
            return Observation(CAMERA, lambda points: np.full(len(points), density, dtype=np.float32))

    row = lidar_rows(street, [Even()])["original", "wall"]
    assert (row["points"], row["predicted"]) == (12_800, predicted)
