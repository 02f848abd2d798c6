"""Controls on a street with one wall."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scene_completion_ros.errors import GridError, SequenceError
from scene_completion_ros.evaluation.truth import IN_VIEW, SEEN, exact_truth
from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.controls import (
    EmptyControl,
    PriorControl,
    SurfaceControl,
    fit_prior,
    surface_controls,
    surface_voxels,
    true_depth,
)
from tests.training.evaluation.one_wall import Wall, make_street


def test_surface_fills_the_voxels_of_its_points() -> None:
    camera = Camera(fx=100.0, fy=100.0, cx=0.0, cy=0.0, width=1, height=1)  # one ray, straight ahead
    depth = np.array([[10.05]], dtype=np.float32)
    # x ahead 10.05 m: voxel 50 of 0.2 m; y = 0: voxel 128 of 256 from -25.6 m; z = 0 above -2.2 m: voxel 11.
    assert np.argwhere(surface_voxels(depth, camera)).tolist() == [[50, 128, 11]]
    # 4 m thick: up to 14.05 m, voxel 70.
    thick = np.argwhere(surface_voxels(depth, camera, 4.0))
    assert thick.tolist() == [[i, 128, 11] for i in range(50, 71)]
    assert not surface_voxels(np.array([[np.inf]], np.float32), camera, 4.0).any()
    assert not surface_voxels(np.array([[0.0]], np.float32), camera, 4.0).any()


def test_a_surface_lies_in_the_voxels_of_the_recording() -> None:
    """A robot of a quarter of the measure: 0.05 m voxels, and 1 m instead of 4 m behind the surface."""
    small = {"origin": [0.0, -6.4, -0.6], "voxel_size": 0.05, "shape": [256, 256, 32]}
    near = dataclasses.replace(make_street(), provenance={"voxel_grid": small})
    ray = np.array([[10.02], [10.5], [10.98], [11.1]]) * [0.0125, 0.0125, 1.0]  # of the pixel half right, half down
    density = SurfaceControl(true_depth, "true depth", 4.0).observe(near, 0).density(ray.astype(np.float32))
    assert (density > 0.5).tolist() == [True, True, True, False]


def test_towns_of_two_rigs_have_no_common_prior() -> None:
    shape = (4, 4, 4)
    label, flags = np.ones(shape, np.uint8), np.full(shape, IN_VIEW | SEEN, np.uint8)
    grids = [VoxelGrid((0.0, 0.0, 0.0), edge, shape) for edge in (0.2, 0.05)]
    with pytest.raises(GridError, match="towns of one rig"):
        fit_prior(exact_truth(label, flags, grid) for grid in grids)
    with pytest.raises(SequenceError, match="no frame has voxels"):
        fit_prior([])


def test_controls_of_a_town(street: PosedSequence) -> None:
    names = [control.name for control in surface_controls(street, Wall())]
    assert names == [
        "surface (true depth)",
        "surface + 4 m (true depth)",
        "surface (depth of wall)",
        "surface + 4 m (depth of wall)",
    ]
    points = np.array([[0.0, 0.0, 10.05], [0.0, 0.0, 13.0], [0.0, 0.0, 14.5], [0.0, 0.0, 8.0]], dtype=np.float32)
    surface, thick = (
        SurfaceControl(true_depth, "true depth", metres).observe(street, 0).density(points) > 0.5
        for metres in (0.0, 4.0)
    )
    assert surface.tolist() == [True, False, False, False]
    assert thick.tolist() == [True, True, False, False]
    assert not EmptyControl().observe(street, 0).density(points).any()
    with pytest.raises(SequenceError, match="frame 1"):
        true_depth(street, 1)


def test_prior_is_cut_at_its_own_threshold(street: PosedSequence) -> None:
    grid = VoxelGrid((0.0, -1.0, -1.0), 1.0, (3, 2, 2))
    mean = np.zeros(grid.shape, dtype=np.float32)
    mean[:, 0, 0] = 0.2, 0.31, 1.0
    control = PriorControl(mean, 0.3, grid)
    points = np.array(
        [[0.5, 0.5, 0.5], [0.5, 0.5, 1.5], [0.5, 0.5, 2.5], [0.5, -0.5, 0.5], [9.0, 9.0, 9.0]], np.float32
    )
    density = control.observe(street, 0).density(points)
    assert (density > 0.5).tolist() == [False, True, True, False, False]
    # 0.5 * log(1 - 0.2) / log(1 - 0.3) = 0.3128
    assert density[0] == pytest.approx(0.3128, abs=1e-3)
    assert density[3] == density[4] == 0.0


def test_prior_of_frames_finds_their_mean() -> None:
    shape = (256, 256, 32)
    label, flags = np.zeros(shape, np.uint8), np.full(shape, IN_VIEW | SEEN, np.uint8)
    label[:128] = 1
    grid = VoxelGrid((0.0, -25.6, -2.2), 0.2, shape)
    second = np.where(np.arange(256)[:, None, None] < 64, label, np.uint8(0))
    truths = [exact_truth(each, flags, grid) for each in (label, second)]
    control = fit_prior(truths, sigma=(0.0, 0.0, 0.0))
    # A mean of 1 in the first 64 slices, 0.5 in the next 64, 0 in the rest. The threshold is fitted to both frames:
    # from 0.5 on IoU is (128 + 64) / (2 * 128) = 0.75, from 1 on (64 + 64) / (128 + 64) = 0.67.
    ahead = np.array([[0.0, 0.0, 6.0], [0.0, 0.0, 20.0], [0.0, 0.0, 30.0]], dtype=np.float32)
    assert (control.observe(make_street(), 0).density(ahead) > 0.5).tolist() == [True, True, False]
