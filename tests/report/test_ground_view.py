"""The map of the ground from above."""

from __future__ import annotations

import numpy as np

from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD
from scene_completion_ros.mapping.ground_map import FREE, OCCUPIED, UNKNOWN, GroundMap
from scene_completion_ros.report.ground_view import (
    CLEARING_COLOUR,
    FREE_COLOUR,
    OCCUPIED_COLOUR,
    UNKNOWN_COLOUR,
    ground_view,
    map_colours,
)
from scene_completion_ros.report.map_axes import MARGIN

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
