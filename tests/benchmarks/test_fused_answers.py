"""What the benchmark of temporal fusion compares, and how flicker is counted: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fused_answers import (
    DrivenFrame,
    Flicker,
    Fusion,
    LastFrame,
    Maximum,
    SingleFrame,
    Sum,
    common_voxels,
    moved,
)
from benchmarks.temporal_fusion import speed_table
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.inference.scene_query import HostField
from scene_completion_ros.mapping.temporal_fusion import FusionSettings
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.mapping.small_voxels import voxels_of

GRID = VoxelGrid((0.0, -1.0, -0.5), 0.5, (6, 4, 2))
CAMERA = Camera(fx=4.0, fy=4.0, cx=3.5, cy=1.5, width=8, height=4)


def driven(probability: np.ndarray, x: float = 0.0, stamp_ns: int = 0) -> DrivenFrame:
    """A frame whose grid lies x metres ahead of the origin; NaN is out of view, 0.5 and more is occupied."""
    with np.errstate(invalid="ignore"):
        state = np.where(probability >= 0.5, VoxelState.SURFACE, VoxelState.FREE_SEEN)
    state = np.where(np.isnan(probability), VoxelState.UNOBSERVED, state)
    dense = np.nan_to_num(probability).astype(np.float32)
    voxels = voxels_of(state, GRID.origin, GRID.voxel_size, probabilities=dense, stamp_ns=stamp_ns)
    picture = np.zeros((4, 8), dtype=np.float32)
    completion = Completion(
        voxels, HostField(dense, dense), picture, picture, CAMERA, np.zeros((4, 8, 3), np.uint8), {"total": 1.0}
    )
    return DrivenFrame(completion, RigidTransform(np.eye(3), np.array([x, 0.0, 0.0])))


def test_moved_values_lie_where_they_were() -> None:
    values = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 4, 2), dtype=np.float32)
    ahead = moved(values, GRID, RigidTransform(np.eye(3), np.array([0.75, 0.0, 0.0])))
    np.testing.assert_allclose(ahead[:, 1, 1], [1.5, 2.5, 3.5, 4.5, np.nan, np.nan])


def test_voxels_in_view_of_two_frames() -> None:
    everything = np.full(GRID.shape, 0.1)
    hidden = everything.copy()
    hidden[5] = np.nan
    before, after = common_voxels(driven(everything), driven(hidden, x=1.0))
    # Six columns that the second frame begins two later: four are in both grids. Every second one of the odometry
    # frame's columns and rows is looked at, both heights.
    pairs = {(int(a), int(b)) for a, b in zip(before, after, strict=True)}
    strides = (8, 2, 1)
    assert pairs == {
        (int(np.dot((x + 2, y, z), strides)), int(np.dot((x, y, z), strides)))
        for x in (0, 2)
        for y in (0, 2)
        for z in (0, 1)
    }
    gone = everything.copy()
    gone[0] = np.nan
    assert len(common_voxels(driven(everything), driven(gone, x=1.0))[0]) == 4


def test_flicker_counts_changes_of_common_voxels() -> None:
    flicker = Flicker()
    first, second = np.zeros(GRID.shape, dtype=bool), np.zeros(GRID.shape, dtype=bool)
    first[2, 0, 0] = first[3, 1, 1] = second[3, 1, 1] = second[0, 0, 0] = True
    flicker.update(first, None)
    same = np.arange(first.size)
    flicker.update(second, (same, same))
    assert flicker.counts.tolist() == [2, 48, 3]
    flicker.update(first, None)  # another drive
    assert flicker.counts.tolist() == [2, 48, 3]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (SingleFrame(0.5), 0.2),
        (LastFrame(0.5, 0.5), 0.8),
        (Maximum(0.5, 0.5), 0.8),
        (Sum(0.5, 0.5), 0.5),  # log odds of 0.8 and 0.2 cancel out
        (Fusion(0.5, FusionSettings(seen_frames=1.0, half_life=600.0, reach=100.0)), 0.5),
    ],
)
def test_second_answers_by_hand(answers, expected: float) -> None:
    answers(driven(np.full(GRID.shape, 0.8)))
    probability, occupied = answers(driven(np.full(GRID.shape, 0.2), stamp_ns=1))
    np.testing.assert_allclose(probability[2:4, 1:3], expected, atol=1e-4)
    if abs(expected - 0.5) > 0.1:
        assert occupied[2, 1, 0] == (expected > 0.5)


def test_drifting_odometry_is_what_it_says() -> None:
    fusion = Fusion(0.5, FusionSettings(), stretch=1.5, turn=np.pi / 2.0)
    pose = fusion._measured(RigidTransform(np.eye(3), np.array([2.0, 0.0, 1.0])), 1.0)
    np.testing.assert_allclose(pose.translation, [3.0, 0.0, 1.5])
    np.testing.assert_allclose(pose.rotation[:, 0], [0.0, 1.0, 0.0], atol=1e-12)


def test_the_table_of_costs_counts_what_each_map_does() -> None:
    frames = [driven(np.full(GRID.shape, 0.1), x=0.5 * step, stamp_ns=step * 100_000_000) for step in range(12)]
    text, values = speed_table(frames, 0.5, 1)
    assert values["fused"]["updated"] == 6 * 4 * 2 == 4 * values["a frame of the middle quarter"]["updated"]
    small, large = values["fused"], values["a map 30 m larger on all sides"]
    assert large["updated"] == small["updated"]
    assert large["box_voxels"] > 10 * small["box_voxels"]
    side = round(large["box_voxels"] / large["entered"])
    assert large["entered"] * side == large["box_voxels"]  # one layer enters where the grid moves by one voxel
    assert len(text.splitlines()) == 2 + 5 + 2
