"""Keyframes by what moves in the image."""

from __future__ import annotations

import numpy as np

from scene_completion_training.extraction.finishing import select_by_image_motion
from tests.training.extraction.textured_street import CAMERA, drive, picture


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
