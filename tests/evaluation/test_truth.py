"""Regions of voxels, by hand."""

import numpy as np

from scene_completion_ros.evaluation.truth import (
    ALL,
    BELOW_GROUND,
    IN_VIEW,
    INTERIOR,
    OCCLUDED,
    SEEN,
    VISIBLE,
    VoxelTruth,
    exact_truth,
    labelled_truth,
    stored_flags,
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
