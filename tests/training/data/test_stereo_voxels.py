"""Voxels that one stereo pair knows, of a level road with a car on it, and those that a drive knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.evaluation.semantic_classes import EMPTY, INVALID
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, RigidTransform
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import mounting
from scene_completion_training.data.completion_samples import lidar_ground, truth_around
from scene_completion_training.data.voxel_evidence import (
    OF_NO_CLASS,
    SKY,
    mounting_above,
    voxels_of_drive,
    voxels_of_pixels,
)
from scene_completion_training.viewpoint import Volume
from tests.training.data.test_scan_samples import AWAY, BUILDING, CAMERA, CAR, GRID, HEIGHT, POSE, ROAD, label_at
from tests.training.synthetic_scene import BOX, CAMERA_HEIGHT, ray_cast


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray]:
    """Labels and ground, of exact depth with exact classes and a wrong match in the middle of the road."""
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    fall, aside = (v - CAMERA.cy) / CAMERA.fy, (u - CAMERA.cx) / CAMERA.fx
    depth = np.where(fall > 0.04, HEIGHT / np.maximum(fall, 1e-9), 0.0)
    classes = np.where(depth > 0.0, ROAD, SKY)
    on_car = (np.abs(aside * AWAY) < 1.0) & (fall * AWAY > HEIGHT - 1.0) & (fall * AWAY < HEIGHT)
    depth, classes = np.where(on_car, AWAY, depth), np.where(on_car, CAR, classes)
    depth[80:83, 20:23] *= 0.5  # above the road
    deviation = np.full(depth.shape, 0.05, np.float32)
    return voxels_of_pixels(depth.astype(np.float32), deviation, classes.astype(np.uint8), CAMERA, GRID, POSE)


def test_the_ground_is_where_pixels_of_the_road_saw_it(seen: tuple[np.ndarray, np.ndarray]) -> None:
    _, ground = seen
    known = np.isfinite(ground)
    assert 0.2 < known.mean() < 0.9 and not known[:8, 32].any()  # the image shows no ground closer than 2.3 m
    np.testing.assert_allclose(ground[known], -HEIGHT, atol=1e-3)


def test_a_pair_knows_the_ground_and_what_stands_close_by(seen: tuple[np.ndarray, np.ndarray]) -> None:
    label, _ = seen
    assert label_at(label, AWAY + 0.05, 0.0, -0.9) == CAR
    assert label_at(label, 4.0, 0.0, -1.45) == ROAD and label_at(label, 10.0, 3.0, -1.45) == ROAD
    assert set(np.unique(label)) == {ROAD, CAR, INVALID}  # the wrong match is above the road: no ground
    assert label_at(label, 4.0, 0.0, -0.5) == label_at(label, 8.0, 0.0, -0.9) == INVALID  # before the car, behind it


def test_a_camera_stands_above_the_ground_close_by() -> None:
    """1.2 m above it, 3° down, rolled by 2°; a wall that was taken for ground, and a slope far ahead, change little."""
    pose = RigidTransform(
        rotation_of_angles(np.radians(2.0), np.radians(3.0), 0.0) @ DEFAULT_GRID_FROM_CAMERA.rotation, [0, 0, 1.2]
    )
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(3.0, 30.0, 0.4), np.arange(-6.0, 6.0, 0.4)))
    z = np.where(x > 20.0, 0.1 * (x - 20.0), np.where(y > 3.7, 0.5, 0.0))
    found = mounting_above(pose.inverse().apply(np.stack([x, y, z], axis=-1)))
    assert found is not None and found.translation[2] == pytest.approx(1.2, abs=0.01)
    np.testing.assert_allclose(found.rotation, pose.rotation, atol=0.003)
    assert mounting_above(np.zeros((5, 3))) is None


def test_nothing_is_ground_where_no_pixel_is(seen: tuple[np.ndarray, np.ndarray]) -> None:
    """Nor is a wall: its voxels are known only as surely as its depth."""
    depth, classes = np.full((96, 192), 8.0, np.float32), np.full((96, 192), BUILDING, np.uint8)
    label, ground = voxels_of_pixels(depth, np.full_like(depth, 0.3), classes, CAMERA, GRID, POSE)
    assert not np.isfinite(ground).any() and set(np.unique(label)) == {INVALID}


def test_the_road_before_kittis_cars_is_level(shared_data: Path) -> None:
    """By labelled LiDAR, on the mean of drives to five centimetres; before level cameras 1.65 m up it is not."""
    off = np.zeros(2)
    for drive in ("00", "02", "03", "05", "07"):
        sequence = open_recording(shared_data / "kitti_windows" / "sequences" / drive)
        truth, upright = truth_around(sequence, 0, "image_2"), mounting(sequence, "image_2")
        ground = lidar_ground(sequence, 0, "image_2", truth)
        row, column = np.nonzero(np.isfinite(ground))
        places = (np.stack([row, column], axis=-1) + 0.5) * truth.grid.voxel_size + truth.grid.origin[:2]
        points = truth.grid_from_camera.inverse().apply(np.column_stack([places, ground[row, column]]))
        for number, pose in enumerate((upright, RigidTransform(DEFAULT_GRID_FROM_CAMERA.rotation, [0.0, 0.0, 1.65]))):
            x, y, z = pose.apply(points).T
            near = (x > 4.0) & (x < 14.0) & (np.abs(y) < 3.0)
            assert near.sum() > 100
            off[number] += abs(np.median(z[near])) / 5
    assert off[0] < 0.05 and off[1] > 0.1


def box_of_voxels(low: tuple[float, float, float], high: tuple[float, float, float]) -> tuple[slice, ...]:
    """Slices of the default grid that a box in the optical frame covers, corners rounded to voxels."""
    corners = DEFAULT_GRID_FROM_CAMERA.apply(np.array([low, high], dtype=float))
    cells = (corners - np.asarray(DEFAULT_GRID.origin)) / DEFAULT_GRID.voxel_size
    first, last = np.round(cells.min(axis=0)).astype(int), np.round(cells.max(axis=0)).astype(int)
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True))


def test_a_drive_names_what_a_frame_sees_of_its_voxels(synthetic_drive: Path) -> None:
    """The front of the box is what its pixels are; the road, whose class is unknown, is only occupied."""
    sequence, depth = kitti_odometry(synthetic_drive), ray_cast(np.zeros(3))[1].astype(np.float32)
    classes = np.where(np.abs(depth - BOX[0][2]) < 0.05, CAR, INVALID).astype(np.uint8)
    seen = np.full(DEFAULT_GRID.shape, INVALID, np.uint8)
    seen[5, 128, 2] = ROAD
    camera, pose = sequence.cameras["image_2"], DEFAULT_GRID_FROM_CAMERA
    label = voxels_of_drive(sequence, 0, seen, depth, classes, camera, Volume(), pose)
    face = box_of_voxels((BOX[0][0] + 0.4, 0.4, BOX[0][2] - 0.2), (BOX[1][0] - 0.4, 1.2, BOX[0][2] + 0.2))
    ground = box_of_voxels((-3.0, CAMERA_HEIGHT - 0.2, 8.0), (3.0, CAMERA_HEIGHT + 0.2, 11.0))
    air = box_of_voxels((-2.0, -1.0, 6.0), (2.0, 1.0, 10.0))
    assert (label[face] == CAR).any(axis=0).mean() > 0.9 and label[5, 128, 2] == ROAD
    assert (label[ground] == OF_NO_CLASS).any(axis=2).mean() > 0.95 and (label[air] == EMPTY).mean() > 0.99
