"""Occupancy fused from stereo, as voxels of a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.evaluation.stereo_truth import stereo_truths
from tests.training.synthetic_scene import BOX, CAMERA_HEIGHT, WALL_AHEAD


@pytest.fixture(scope="module")
def truths(synthetic_drive: Path) -> list[VoxelTruth]:
    return list(stereo_truths(kitti_odometry(synthetic_drive), every=3))


def box_of_voxels(low: tuple[float, float, float], high: tuple[float, float, float]) -> tuple[slice, ...]:
    """Slices of the default grid that a box in the optical frame covers, corners rounded to voxels."""
    corners = DEFAULT_GRID_FROM_CAMERA.apply(np.array([low, high], dtype=float))
    cells = (corners - np.asarray(DEFAULT_GRID.origin)) / DEFAULT_GRID.voxel_size
    first, last = np.round(cells.min(axis=0)).astype(int), np.round(cells.max(axis=0)).astype(int)
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True))


def test_things_stand_where_they_are(truths: list[VoxelTruth]) -> None:
    truth = truths[0]
    assert len(truths) == 2  # frames 0 and 3
    ground = box_of_voxels((-3.0, CAMERA_HEIGHT - 0.2, 8.0), (3.0, CAMERA_HEIGHT + 0.2, 11.0))
    face = box_of_voxels((BOX[0][0] + 0.2, 0.2, BOX[0][2] - 0.2), (BOX[1][0] - 0.2, 1.2, BOX[0][2] + 0.4))
    air = box_of_voxels((-2.0, -1.0, 6.0), (2.0, 1.0, 10.0))
    beyond = box_of_voxels((-1.0, -1.0, WALL_AHEAD + 3.0), (1.0, 1.0, WALL_AHEAD + 6.0))
    assert truth.occupied[ground].any(axis=2).mean() > 0.95
    assert truth.occupied[face].any(axis=0).mean() > 0.95
    assert truth.known[air].mean() > 0.7  # of a grid's voxels three quarters are drawn
    assert not truth.occupied[air].any()
    assert not truth.known[beyond].any()
    assert not (truth.occupied & ~truth.known).any()
