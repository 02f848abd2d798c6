"""Occupancy fused from stereo, as voxels of a frame and as the prior that a user without labels could have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.evaluation.occupancy import OccupancyByRange
from scene_completion_ros.evaluation.truth import ALL, VoxelTruth
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data.motion_stereo import depth_meter
from scene_completion_training.evaluation.controls import fit_prior
from scene_completion_training.evaluation.stereo_truth import stereo_evidence, stereo_truths
from scene_completion_training.viewpoint import STREET_AHEAD_M
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


def test_only_what_the_image_shows_counts(truths: list[VoxelTruth]) -> None:
    counted = truths[0].regions[ALL]
    ahead = box_of_voxels((-1.0, -1.0, 10.0), (1.0, 1.0, 12.0))
    aside = box_of_voxels((10.0, -1.0, 2.0), (12.0, 1.0, 4.0))
    assert counted[ahead].all()
    assert not counted[aside].any()


def test_prior_of_the_drive_has_the_ground(truths: list[VoxelTruth], synthetic_drive: Path) -> None:
    observed = fit_prior(truths, sigma=(0.0, 0.0, 0.0)).observe(kitti_odometry(synthetic_drive), 0)
    points = np.array([[2.5, CAMERA_HEIGHT, 9.0], [0.0, 0.0, 7.0]], dtype=np.float32)
    around = points[:, None] + np.linspace(-0.2, 0.2, 5)[None, :, None] * np.array([0.0, 1.0, 0.0], np.float32)
    density = observed.density(around.reshape(-1, 3).astype(np.float32)).reshape(2, -1)
    assert (density > 0.5).any(axis=1).tolist() == [True, False]


def test_real_stereo_agrees_with_lidar(window: PosedSequence) -> None:
    """Misplaced by a voxel, or in the frame of another sensor, next to nothing of thin road would agree."""
    pair = dataclasses.replace(window, frames=window.frames[:4])
    truth = voxel_truth(pair, 0)
    assert truth is not None
    meter = depth_meter(pair, STREET_AHEAD_M)
    score, known = stereo_evidence(pair, 0, truth.grid, truth.grid_from_camera, meter)
    metric = OccupancyByRange(truth.grid, ranges=(12.8,))
    metric.update(score, truth.occupied, known & truth.known, {ALL: known}, score > 0.3)
    assert meter.kind == "stereo pair"
    assert metric.compute()[12.8, ALL].average_precision > 0.8
