"""Boxes and maps as RViz shows them: what is left, above and near lies where it should, and hides what is behind."""

from __future__ import annotations

import numpy as np
import pytest

from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.mapping.ground_map import FREE, OCCUPIED, UNKNOWN, GroundMap
from scene_completion_ros.report.map_axes import MARGIN, Picture
from scene_completion_ros.report.rviz_views import (
    BACKGROUND,
    CLEARING_COLOUR,
    FREE_COLOUR,
    OCCUPIED_COLOUR,
    UNKNOWN_COLOUR,
    BoxPicture,
    OrbitView,
    ground_view,
    map_colours,
)

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)
BEHIND = OrbitView(np.pi, 0.5, 20.0, (0.0, 0.0, 0.0))  # of a frame with x forward and z up
EVEN = (1.0, 1.0, 1.0)  # light


def middle_of(picture: Picture, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean column and row of the pixels of a colour, from the middle of the picture."""
    rows, columns = np.nonzero((picture == colour).all(axis=-1))
    assert rows.size
    height, width = picture.shape[:2]
    return float(columns.mean()) - 0.5 * (width - 1), float(rows.mean()) - 0.5 * (height - 1)


def boxes(view: OrbitView, centres: list[tuple[float, float, float]], *colours: tuple[int, int, int]) -> Picture:
    drawing = BoxPicture(view, 320, 240)
    places = np.array(centres, dtype=np.float64).reshape(-1, 3)
    drawing.draw_boxes(places, np.array(colours, dtype=np.uint8).reshape(-1, 3), 1.0, EVEN)
    return drawing.picture


def test_the_focal_point_is_in_the_middle_and_left_is_left() -> None:
    picture = boxes(BEHIND, [(0, 0, 0), (0, 5, 0), (0, 0, 4)], RED, GREEN, BLUE)
    assert middle_of(picture, RED) == pytest.approx((0.0, 0.0), abs=1.5)
    column, row = middle_of(picture, GREEN)  # y is left where x is forward and z up
    assert column < -40
    assert row == pytest.approx(0.0, abs=1.5)
    column, row = middle_of(picture, BLUE)
    assert column == pytest.approx(0.0, abs=1.5)
    assert row < -30
    assert (picture[0, 0] == BACKGROUND).all()


def test_boxes_are_as_large_as_they_are_far() -> None:
    level = OrbitView(np.pi, 0.0, 20.0, (0.0, 0.0, 0.0))
    picture = boxes(level, [(0.5, 0, 0)], RED)  # its face is 20 m away
    _, columns = np.nonzero((picture == RED).all(axis=-1))
    focal = 120 / np.tan(np.radians(22.5))
    assert np.ptp(columns) == pytest.approx(focal / 20.0, abs=2.0)


def test_near_boxes_hide_far_ones_in_any_order() -> None:
    level = OrbitView(np.pi, 0.0, 20.0, (0.0, 0.0, 0.0))
    for centres, colours in (([(0, 0, 0), (5, 0, 0)], (RED, GREEN)), ([(5, 0, 0), (0, 0, 0)], (GREEN, RED))):
        picture = boxes(level, centres, *colours)  # type: ignore[arg-type]
        assert not (picture == GREEN).all(axis=-1).any()
        assert (picture == RED).all(axis=-1).any()


def test_a_solid_block_looks_as_boxes_of_its_surface_alone() -> None:
    place = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    surface = ((place == 0) | (place == 3)).any(axis=1)
    shown = []
    for centres in (place, place[surface]):
        drawing = BoxPicture(OrbitView(2.5, 0.6, 15.0, (2.0, 2.0, 2.0)), 160, 120)
        drawing.draw_boxes(centres, np.tile(np.array(RED, dtype=np.uint8), (len(centres), 1)), 1.0)
        shown.append(drawing.picture)
    np.testing.assert_array_equal(*shown)
    assert {tuple(colour) for colour in shown[0].reshape(-1, 3)} >= {(200, 0, 0), (140, 0, 0), (170, 0, 0)}  # its sides


def test_what_is_behind_the_viewer_is_not_drawn() -> None:
    level = OrbitView(np.pi, 0.0, 20.0, (0.0, 0.0, 0.0))
    assert (boxes(level, [(-30, 0, 0)], RED) == BACKGROUND).all()
    drawing = BoxPicture(level, 320, 240)
    drawing.draw_lines(np.array([[-30.0, 1.0, 0.0]]), np.array([[-25.0, 1.0, 0.0]]))
    assert (drawing.picture == BACKGROUND).all()
    drawing.draw_lines(np.array([[-30.0, 1.0, 0.0]]), np.array([[30.0, 1.0, 0.0]]))  # cut where it passes him
    rows, columns = np.nonzero((drawing.picture != BACKGROUND).any(axis=-1))
    assert rows.size
    assert columns.max() < 161
    assert (boxes(level, []) == BACKGROUND).all()


def test_a_map_lies_where_boxes_on_its_cells_stand() -> None:
    cells = np.zeros((6, 8, 3), dtype=np.uint8)  # rows along y, columns along x
    cells[4, 6] = RED
    frame_from_map = RigidTransform(np.eye(3), np.array([-4.0, -3.0, 0.0]))
    drawing = BoxPicture(BEHIND, 320, 240)
    drawing.draw_map(cells, frame_from_map, 1.0, 1.0)
    expected = BoxPicture(BEHIND, 320, 240)
    centre = np.array([[2.5, 1.5, -0.5]])  # the top of the box is the cell
    expected.draw_boxes(centre, np.array([RED], dtype=np.uint8), 1.0, (0.0, 0.0, 1.0))
    assert middle_of(drawing.picture, RED) == pytest.approx(middle_of(expected.picture, RED), abs=1.0)
    half = BoxPicture(BEHIND, 320, 240)
    half.draw_map(cells, frame_from_map, 1.0, 0.5)
    mixed = tuple(round(0.5 * (red + ground)) for red, ground in zip(RED, BACKGROUND, strict=True))
    assert middle_of(half.picture, mixed) == pytest.approx(middle_of(expected.picture, RED), abs=1.0)  # type: ignore[arg-type]


CAMERA_POSE = OPTICAL_FROM_FORWARD.inverse()


def test_cells_have_the_colours_of_rviz() -> None:
    colours = map_colours(np.array([[FREE, OCCUPIED, UNKNOWN, 50]], dtype=np.int8))
    assert [tuple(colour) for colour in colours[0, :3]] == [FREE_COLOUR, OCCUPIED_COLOUR, UNKNOWN_COLOUR]
    assert tuple(colours[0, 3]) == (128, 128, 128)


def test_ahead_is_up_and_left_is_left() -> None:
    cells = np.full((16, 16), FREE, dtype=np.int8)  # rows along y, columns along x
    cells[12:, :4] = OCCUPIED  # near and left
    cells[:4, 12:] = UNKNOWN  # far and right
    picture = ground_view(GroundMap((0.0, -8.0), 1.0, cells), upright_from_camera=CAMERA_POSE, height=16 * 12 + 92)
    inner = picture[MARGIN:-MARGIN, MARGIN:-MARGIN]
    side = len(inner)
    assert side == 16 * 12
    quarter = 30  # pixels: 2.5 m, beside the lines
    assert tuple(inner[-quarter, quarter]) == OCCUPIED_COLOUR
    assert tuple(inner[quarter, -quarter]) == UNKNOWN_COLOUR
    assert tuple(inner[quarter, quarter]) == FREE_COLOUR


def test_clearing_points_lie_where_they_are_and_only_on_the_map() -> None:
    cells = np.full((16, 16), FREE, dtype=np.int8)
    ground = GroundMap((0.0, -8.0), 1.0, cells)
    points = np.array([[11.3, 4.3, 0.7], [100.0, 0.0, 0.0], [-5.0, 0.0, 0.0]])
    picture = ground_view(ground, upright_from_camera=CAMERA_POSE, clearing=points, height=16 * 12 + 92)
    rows, columns = np.nonzero((picture == CLEARING_COLOUR).all(axis=-1))
    assert (rows.tolist(), columns.tolist()) == ([round(MARGIN + 4.7 * 12)], [round(MARGIN + 3.7 * 12)])
