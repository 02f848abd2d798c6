import dataclasses

import numpy as np
import pytest

from scene_completion_ros.geometry.grids import DEFAULT_GRID, ROOM_GRID
from scene_completion_ros.report.pictures import birds_eye_view, depth_picture, panel, voxel_view
from scene_completion_ros.voxels.colours import STATE_COLOURS
from tests.voxels.samples import CAMERA, COLOURS, photo, street

MARGIN = 46


def centre_of(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean row and column of the pixels of a colour, blended with the thin grid lines or not."""
    near = (np.abs(picture.astype(int) - colour) < 12).all(axis=-1)
    rows, columns = np.nonzero(near)
    assert len(rows) > 30
    return float(rows.mean()), float(columns.mean())


def test_birds_eye_view_has_forward_up_and_left_on_the_left() -> None:
    picture = birds_eye_view(street(), CAMERA)
    cell = (620 - 2 * MARGIN) // 60
    assert picture.shape == (60 * cell + 2 * MARGIN, 40 * cell + 2 * MARGIN, 3)
    row, column = centre_of(picture, COLOURS[1])
    assert row == pytest.approx(MARGIN + (60 - 22.5) * cell, abs=cell)
    assert column == pytest.approx(MARGIN + (40 - 30) * cell, abs=cell)
    hedge_row, _ = centre_of(picture, COLOURS[2])
    assert hedge_row < row  # farther ahead, higher up


def test_free_and_unknown_columns_differ() -> None:
    voxels = street()
    voxels.state[:, :10, :2] = 1  # the road is gone on the right
    keep = voxels.state[tuple(voxels.index.T)] >= 3
    arrays = {name: getattr(voxels, name)[keep] for name in ("index", "probability", "label", "confidence")}
    picture = birds_eye_view(dataclasses.replace(voxels, **arrays), CAMERA)
    _, column = centre_of(picture, STATE_COLOURS[1])
    assert column > picture.shape[1] / 2
    bottom = picture[-MARGIN - 8, MARGIN + 20]
    assert np.abs(bottom.astype(int) - STATE_COLOURS[0]).max() < 40


def test_the_voxels_are_seen_as_the_camera_sees_them() -> None:
    picture = voxel_view(street(), CAMERA, width=160).astype(int)
    assert picture.shape == (80, 160, 3)
    # The wall's front at 4 m, across x, is darker than its colour; the road below on the right is seen from above.
    assert picture[36, 20] == pytest.approx(0.7 * np.array(COLOURS[1]), abs=1)
    assert tuple(picture[78, 120]) == COLOURS[0]
    assert tuple(picture[30, 120]) == (225, 225, 225)  # nothing above the horizon on the right
    hedge = np.nonzero(picture[..., 1] > picture[..., 0] + 40)[1]
    assert hedge.min() >= 79.5 - 100.0 / 5.0 - 1  # what the wall, whose far corner is at 5 m, leaves of it


def test_panel_keeps_the_camera_image_upright_and_unmirrored() -> None:
    image = photo()
    picture = panel(
        image, depth_picture(np.ones((40, 80), np.float32)), birds_eye_view(street(), CAMERA), title="a street"
    )
    _, column = centre_of(picture, (255, 0, 0))
    assert column < 12 + 640 / 4
    assert picture.shape[1] > 640


def test_depth_in_a_room_has_the_colours_of_rooms() -> None:
    """One metre and three have one colour with the grid of a street, and differ with one of 6.4 m."""
    near, far = (np.full((40, 80), metres, np.float32) for metres in (1.0, 3.0))
    for grid, alike in ((DEFAULT_GRID, True), (ROOM_GRID, False)):
        first, second = (depth_picture(depth, grid)[:20, :20] for depth in (near, far))
        assert bool((first == second).all()) is alike
