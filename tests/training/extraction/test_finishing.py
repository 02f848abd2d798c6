"""Keyframes by poses and by what moves in the image."""

from __future__ import annotations

import numpy as np
from scene_completion_training.extraction.finishing import select_by_image_motion, select_by_motion

from scene_completion_ros.geometry import RigidTransform, view_rotation
from tests.training.extraction.textured_street import CAMERA, drive, picture


def pose(z: float, yaw_degrees: float = 0.0) -> RigidTransform:
    return RigidTransform(view_rotation(yaw=np.deg2rad(yaw_degrees)), np.array([0.0, 0.0, z]))


def test_metres_and_degrees_since_the_last_keyframe() -> None:
    poses = [pose(0), pose(0.2), pose(0.4), pose(0.5), pose(0.5), pose(1.1), pose(1.1, 4), pose(1.1, 6), pose(1.1, 8)]
    assert select_by_motion(poses, 0.5, 5.0) == [0, 3, 5, 7]
    assert select_by_motion([pose(0)] * 50, 0.5, 5.0) == [0]
    assert select_by_motion(poses, 0.0, 180.0) == list(range(9))


def test_standing_frames_show_in_the_image() -> None:
    moving = drive(8)
    poses = [*moving[:4], *[moving[3]] * 6, *moving[4:]]
    noise = np.random.default_rng(0)
    images = [
        np.clip(picture(CAMERA, p).astype(int) + noise.integers(-3, 4, (CAMERA.height, CAMERA.width)), 0, 255)
        for p in poses
    ]
    chosen = select_by_image_motion(image.astype(np.uint8) for image in images)
    assert not set(chosen) & set(range(4, 10))
    assert {0, 10, 13} <= set(chosen)


def test_images_without_corners_do_not_stop_it() -> None:
    blank = [np.full((60, 80), 100, np.uint8)] * 5
    assert select_by_image_motion(blank) == [0, 1, 2, 3, 4]  # nothing is known: the reconstruction decides
    assert select_by_image_motion([]) == []
