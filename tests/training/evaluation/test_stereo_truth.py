"""Occupancy fused from stereo, as voxels of a frame."""

from pathlib import Path

import numpy as np

from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.data.voxel_evidence import OF_NO_CLASS, voxels_of_drive
from scene_completion_training.viewpoint import Volume
from tests.training.synthetic_scene import BOX, CAMERA_HEIGHT, ray_cast


def box_of_voxels(low: tuple[float, float, float], high: tuple[float, float, float]) -> tuple[slice, ...]:
    """Slices of the default grid that a box in the optical frame covers, corners rounded to voxels."""
    corners = DEFAULT_GRID_FROM_CAMERA.apply(np.array([low, high], dtype=float))
    cells = (corners - np.asarray(DEFAULT_GRID.origin)) / DEFAULT_GRID.voxel_size
    first, last = np.round(cells.min(axis=0)).astype(int), np.round(cells.max(axis=0)).astype(int)
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True))


def test_a_drive_names_what_a_frame_sees_of_its_voxels(synthetic_drive: Path) -> None:
    """The front of the box is what its pixels are; the road, whose class is unknown, is only occupied."""
    sequence, car, road = kitti_odometry(synthetic_drive), COMMON_CLASSES.index("car"), COMMON_CLASSES.index("road")
    depth = ray_cast(np.zeros(3))[1].astype(np.float32)
    classes = np.where(np.abs(depth - BOX[0][2]) < 0.05, car, INVALID).astype(np.uint8)
    seen = np.full(DEFAULT_GRID.shape, INVALID, np.uint8)
    seen[5, 128, 2] = road
    pose = DEFAULT_GRID_FROM_CAMERA
    label = voxels_of_drive(sequence, 0, seen, depth, classes, sequence.cameras["image_2"], Volume(), pose)
    face = box_of_voxels((BOX[0][0] + 0.4, 0.4, BOX[0][2] - 0.2), (BOX[1][0] - 0.4, 1.2, BOX[0][2] + 0.2))
    ground = box_of_voxels((-3.0, CAMERA_HEIGHT - 0.2, 8.0), (3.0, CAMERA_HEIGHT + 0.2, 11.0))
    air = box_of_voxels((-2.0, -1.0, 6.0), (2.0, 1.0, 10.0))
    assert (label[face] == car).any(axis=0).mean() > 0.9 and label[5, 128, 2] == road
    assert (label[ground] == OF_NO_CLASS).any(axis=2).mean() > 0.95 and (label[air] == EMPTY).mean() > 0.99
