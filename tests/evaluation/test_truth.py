"""Regions of voxels, by hand."""

import numpy as np
import pytest

from scene_completion_ros.evaluation.truth import (
    ALL,
    BELOW_GROUND,
    IN_VIEW,
    INTERIOR,
    OCCLUDED,
    SEEN,
    SIGHT_POINTS,
    VISIBLE,
    VoxelTruth,
    exact_truth,
    labelled_truth,
    seen_voxels,
    stored_flags,
    visible_voxels,
)
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid

ROW = VoxelGrid((1.0, -0.5, -0.5), 1.0, (7, 1, 1))
WIDE = Camera(fx=10.0, fy=10.0, cx=9.5, cy=9.5, width=20, height=20)


def counted(truth: VoxelTruth, regions: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: np.flatnonzero(mask & truth.known).tolist() for name, mask in regions.items()}


def test_regions_of_exact_voxels() -> None:
    #  visible free, visible wall, hidden free, hidden wall, inside of a house, below ground, out of view
    flags = np.array([3, 3, 1, 1, 1 | 8, 1 | 4, 0], dtype=np.uint8).reshape(ROW.shape)
    label = np.array([0, 5, 0, 5, 5, 0, 5], dtype=np.uint8).reshape(ROW.shape)
    assert (IN_VIEW, SEEN, BELOW_GROUND, INTERIOR) == (1, 2, 4, 8)  # what recordings hold
    truth = exact_truth(label, flags, ROW)
    assert truth.occupied.ravel().tolist() == [False, True, False, True, True, False, True]
    assert truth.free.ravel().tolist() == [True, False, True, False, False, False, False]
    assert truth.known.ravel().tolist() == [True] * 5 + [False, True]
    assert counted(truth, truth.regions) == {VISIBLE: [0, 1], OCCLUDED: [2, 3], ALL: [0, 1, 2, 3]}
    assert counted(truth, truth.regions_with_interiors) == {
        VISIBLE: [0, 1],
        OCCLUDED: [2, 3],
        ALL: [0, 1, 2, 3],
        "interiors": [4],
        "occluded + interiors": [2, 3, 4],
        "all + interiors": [0, 1, 2, 3, 4],
    }
    assert np.flatnonzero(truth.counted).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(stored_flags(truth), flags)


def test_regions_of_measured_voxels_follow_from_what_is_occupied() -> None:
    label = np.array([0, 0, 7, 0, 255, 7, 0], dtype=np.uint8).reshape(ROW.shape)
    invalid = np.zeros(ROW.shape, bool)
    invalid[6] = True
    truth = labelled_truth("by hand", label, invalid, ROW, DEFAULT_GRID_FROM_CAMERA, WIDE)
    assert np.flatnonzero(truth.occupied).tolist() == [2, 5]
    assert counted(truth, truth.regions) == {VISIBLE: [0, 1, 2], OCCLUDED: [3, 5], ALL: [0, 1, 2, 3, 5]}
    assert truth.regions_with_interiors == truth.regions


def seen_by_sampling(occupied: np.ndarray, start: np.ndarray, samples: int = 4000) -> np.ndarray:
    """The same lines, looked at in many points each; positions in units of voxels."""
    seen = np.zeros(occupied.shape, dtype=bool)
    fractions = (np.arange(samples) + 0.5) / samples
    for index in np.ndindex(*occupied.shape):
        for offset in SIGHT_POINTS:
            end = np.array(index) + 0.5 + offset
            voxels = np.floor(start + fractions[:, None] * (end - start)).astype(int)
            inside = np.all((voxels >= 0) & (voxels < occupied.shape), axis=1)
            other = inside & np.any(voxels != index, axis=1)
            own = np.flatnonzero(np.all(voxels == index, axis=1))
            other[own[0] if own.size else samples :] = False
            if not occupied[tuple(voxels[other].T)].any():
                seen[index] = True
                break
    return seen


@pytest.mark.parametrize(
    "camera", [(-3.3, 0.21, 0.13), (0.37, 0.43, 0.71), (0.9, -1.13, 3.7), (2.77, 2.31, -0.83)], ids=str
)
def test_walk_against_sampling(camera: tuple[float, float, float]) -> None:
    grid = VoxelGrid((0.0, -0.7, -0.4), 0.2, (9, 7, 5))
    occupied = np.random.default_rng(1).random(grid.shape) < 0.12
    position = np.array(camera)
    walked = seen_voxels(occupied, position, grid, np.ones(grid.shape, bool))
    sampled = seen_by_sampling(occupied, (position - grid.origin) / grid.voxel_size)
    assert 0.2 < sampled.mean() < 0.98
    # Sampling misses what a line touches for less than a sample.
    assert np.count_nonzero(walked != sampled) <= 2
    assert not np.any(walked & ~sampled)


def test_grazing_ground_is_visible_and_what_a_box_on_it_hides_is_not() -> None:
    grid = VoxelGrid((0.0, -2.0, -1.8), 0.2, (100, 20, 10))
    occupied = np.zeros(grid.shape, dtype=bool)
    occupied[:, :, 0] = True  # its top lies 1.6 m below the camera
    everywhere = np.ones(grid.shape, bool)
    assert visible_voxels(occupied, np.zeros(3), grid, everywhere)[:, :, 0].all()
    occupied[20:26, 5:15, 1:5] = True  # 4 to 5.2 m ahead, 0.8 m high
    visible = visible_voxels(occupied, np.zeros(3), grid, everywhere)
    assert visible[20, 6:14, 1:5].all()  # its front
    assert not visible[22:24, 8:12, 1:3].any()  # its inside
    assert not visible[30:35, 9:11, :2].any()  # its shadow: ground and the air above it
    assert visible[70:, 9:11, 0].all()  # the line over its top reaches the ground again
