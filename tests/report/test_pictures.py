from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.report.pictures import (
    birds_eye_view,
    class_legend,
    depth_of_voxels,
    depth_picture,
    height_legend,
    panel,
    voxel_view,
    with_lidar,
    words_panel,
)
from scene_completion_ros.voxels.colours import STATE_COLOURS, height_colours
from scene_completion_ros.voxels.phrase_matches import OTHER_COLOUR, phrase_colours
from tests.report.scenes import CAMERA, COLOURS, NAMES, photo, street, words_of_street

MARGIN = 46
_ROTATION = DEFAULT_GRID_FROM_CAMERA.rotation


def centre_of(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean row and column of the pixels of a colour, blended with the thin grid lines or not."""
    near = (np.abs(picture.astype(int) - colour) < 12).all(axis=-1)
    rows, columns = np.nonzero(near)
    assert len(rows) > 30
    return float(rows.mean()), float(columns.mean())


def test_birds_eye_view_has_forward_up_and_left_on_the_left() -> None:
    picture = birds_eye_view(street(), height=620)
    cell = (620 - 2 * MARGIN) // 60
    assert picture.shape == (60 * cell + 2 * MARGIN, 40 * cell + 2 * MARGIN, 3)
    row, column = centre_of(picture, COLOURS[1])
    assert row == pytest.approx(MARGIN + (60 - 22.5) * cell, abs=cell)
    assert column == pytest.approx(MARGIN + (40 - 30) * cell, abs=cell)
    hedge_row, _ = centre_of(picture, COLOURS[2])
    assert hedge_row < row  # farther ahead, higher up


def test_free_and_unknown_columns_are_told_apart() -> None:
    voxels = street()
    voxels.state[:, :10, :2] = 1  # the road is gone on the right
    keep = voxels.state[tuple(voxels.index.T)] >= 3
    arrays = {name: getattr(voxels, name)[keep] for name in ("index", "probability", "label", "confidence")}
    picture = birds_eye_view(dataclasses.replace(voxels, **arrays), height=620)
    _, column = centre_of(picture, STATE_COLOURS[1])
    assert column > picture.shape[1] / 2
    bottom = picture[-MARGIN - 8, MARGIN + 20]
    assert np.abs(bottom.astype(int) - STATE_COLOURS[0]).max() < 40


def test_camera_edges_open_forward_from_the_camera() -> None:
    voxels = street()
    difference = (birds_eye_view(voxels) != birds_eye_view(voxels, camera=CAMERA)).any(axis=-1)
    rows, columns = np.nonzero(difference)
    assert rows.max() <= difference.shape[0] - MARGIN + 2
    near, far = columns[rows > rows.max() - 40], columns[rows < rows.max() - 60]
    assert np.ptp(far) > 2 * np.ptp(near)
    assert 0.5 * (near.min() + near.max()) == pytest.approx(difference.shape[1] / 2, abs=4)


def test_lidar_is_drawn_where_it_is_and_the_ground_is_not() -> None:
    voxels = street()
    ground = np.stack([np.linspace(0.1, 11.9, 400), np.full(400, -2.05), np.full(400, -1.6)], axis=-1)
    pole = np.array([[6.05, -2.05, z] for z in np.linspace(-1.5, 1.0, 20)])
    scan = np.concatenate([ground, pole, [[np.nan, 0, 0], [100, 0, 0]]]).astype(np.float32)
    without = birds_eye_view(voxels)
    before = without.copy()
    with_points = with_lidar(without, voxels, scan)
    np.testing.assert_array_equal(without, before)
    rows, columns = np.nonzero((with_points != without).any(axis=-1))
    cell = (with_points.shape[0] - 2 * MARGIN) / 60
    assert rows.mean() == pytest.approx(MARGIN + (12.0 - 6.05) / 0.2 * cell, abs=2)
    assert columns.mean() == pytest.approx(MARGIN + (4.0 + 2.05) / 0.2 * cell, abs=2)
    assert np.ptp(rows) <= 3


def test_depth_of_voxels_is_the_distance_of_the_wall() -> None:
    depth = depth_of_voxels(street(), CAMERA, columns=80)
    assert depth.shape == (40, 80)
    # The wall's front is at 4 m, from y = 1 to 3 m on the left: columns 79.5 - 100 * y / 4, halved.
    assert depth[18, 10] == pytest.approx(4.0, abs=0.15)
    assert depth[18, 60] == np.inf  # nothing on the right at the horizon
    assert depth[38, 60] == pytest.approx(1.6 / ((76.5 - 39.5) / 100), rel=0.1)  # the road, 1.6 m below


def test_the_voxels_are_seen_as_the_camera_sees_them() -> None:
    picture = voxel_view(street(), CAMERA, width=160).astype(int)
    assert picture.shape == (80, 160, 3)
    # The wall's front at 4 m, across x, is darker than its colour; the road below on the right is seen from above.
    assert picture[36, 20] == pytest.approx(0.7 * np.array(COLOURS[1]), abs=1)
    assert tuple(picture[78, 120]) == COLOURS[0]
    assert tuple(picture[30, 120]) == (225, 225, 225)  # nothing above the horizon on the right
    hedge = np.nonzero(picture[..., 1] > picture[..., 0] + 40)[1]
    assert hedge.min() >= 79.5 - 100.0 / 5.0 - 1  # what the wall, whose far corner is at 5 m, leaves of it


def test_the_rays_of_a_camera_in_the_middle_of_the_grid_start_there() -> None:
    voxels = street()
    moved = dataclasses.replace(voxels, grid_from_camera=RigidTransform(_ROTATION, np.array([7.0, 2.0, -1.0])))
    depth = depth_of_voxels(moved, CAMERA, columns=80)
    assert depth[20, 40] == pytest.approx(2.0, abs=0.15)  # the wall at 4 to 5 m is behind it, the hedge is at 9 m


def test_heights_have_a_scale() -> None:
    legend = height_legend(400)
    assert legend.shape == (34, 400, 3)
    place = np.abs(legend[10, 20:380].astype(int) - height_colours(0.0)).sum(axis=-1).argmin() / 360
    assert place == pytest.approx(3.2 / 5.8, abs=0.02)


def test_depth_picture_has_a_scale() -> None:
    depth = np.full((40, 80), 10.0, dtype=np.float32)
    picture = depth_picture(depth, width=320)
    assert picture.shape == (160 + 34, 320, 3)
    assert np.all(picture[:160] == picture[0, 0])
    # The colour of 10 m is found under the label of 10 m.
    bar = picture[168, 20:300].astype(int)
    place = np.abs(bar - picture[0, 0]).sum(axis=-1).argmin() / 280
    assert place == pytest.approx(np.log(10 / 3) / np.log(80 / 3), abs=0.02)


def test_panel_keeps_the_camera_image_upright_and_unmirrored() -> None:
    image = photo()
    picture = panel(image, depth_picture(np.ones((40, 80), np.float32)), birds_eye_view(street()), title="a street")
    _, column = centre_of(picture, (255, 0, 0))
    assert column < 12 + 640 / 4
    assert picture.shape[1] > 640


def test_the_panel_says_which_colour_is_which_class() -> None:
    view = birds_eye_view(street())
    plain = panel(photo(), None, view)
    with_legend = panel(photo(), None, view, class_names=NAMES, class_colours=COLOURS)
    np.testing.assert_array_equal(with_legend[: len(plain)], plain)
    legend = with_legend[len(plain) :]
    columns = []
    for colour in COLOURS:
        _, found = np.nonzero((legend == colour).all(axis=-1))
        assert len(found) == 11 * 11
        columns.append(found.mean())
    assert columns == sorted(columns)
    assert np.array_equal(panel(photo(), None, view, class_names=("all",), class_colours=((1, 2, 3),)), plain)


def test_words_have_the_colours_of_their_voxels_in_one_picture() -> None:
    picture = words_panel(photo(), street(), words_of_street(), camera=CAMERA, title="words").astype(int)
    wall, hedge = phrase_colours(2)
    legend = 34 + 2 * (320 + 24)  # below it
    seen, above = picture[:legend, :652], picture[:legend, 664:]
    for part, colour, least in ((seen, wall, 2000), (seen, hedge, 400), (above, wall, 400), (above, hedge, 400)):
        shades = (part[..., None, :] == np.rint(np.outer([0.7, 0.85, 1.0], colour))).all(axis=-1).any(axis=-1)
        assert shades.sum() > least
    assert (above == OTHER_COLOUR).all(axis=-1).sum() > 400  # the road


def test_a_legend_takes_as_many_rows_as_it_needs() -> None:
    names, colours = [f"class number {i}" for i in range(30)], [(8 * i, 100, 255 - 8 * i) for i in range(30)]
    legend = class_legend([*names, "Fußgänger"], [*colours, (1, 2, 3)], width=400)
    assert legend.shape[1] == 400
    assert len(legend) > 100
    for colour in [*colours, (1, 2, 3)]:
        assert (legend == colour).all(axis=-1).sum() == 11 * 11
    long = class_legend(["a name longer than the picture is wide"], [(1, 2, 3)], width=50)
    assert long.shape == (20, 50, 3)


def test_too_far_is_drawn_as_no_depth() -> None:
    depth = np.full((8, 16), 10.0, np.float32)
    without = depth.copy()
    depth[:4], without[:4] = np.inf, np.nan
    with np.errstate(all="raise"):
        pictures = [depth_picture(values, width=64) for values in (depth, without)]
    np.testing.assert_array_equal(*pictures)
