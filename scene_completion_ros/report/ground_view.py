"""An occupancy map of the ground from above, in the colours in which RViz shows it, with clearing points on top."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.ground_map import GroundMap
from scene_completion_ros.report.map_axes import MARGIN, MapScale, Picture, draw_axes, draw_camera, map_picture

FREE_COLOUR, OCCUPIED_COLOUR, UNKNOWN_COLOUR = (255, 255, 255), (0, 0, 0), (112, 137, 134)
CLEARING_COLOUR = (0, 150, 0)


def map_colours(cells: NDArray[np.int8]) -> Picture:
    """RGB colours [H, W, 3] of cells [H, W]: RViz's scheme "map", white for 0, black for 100, greenish grey for -1."""
    grey = np.rint(255.0 * (1.0 - cells.clip(0, 100) / 100.0)).astype(np.uint8)
    return np.where((cells < 0)[..., None], np.array(UNKNOWN_COLOUR, dtype=np.uint8), grey[..., None])


def ground_view(
    ground: GroundMap,
    *,
    upright_from_camera: RigidTransform,
    camera: Camera | None = None,
    clearing: NDArray[np.float64] | None = None,
    height: int = 620,
) -> Picture:
    """The map from above, forward up and left to the left, with axes in metres and the camera's view.

    Args:
        ground: The map.
        upright_from_camera: Pose of the camera's optical frame in the map's upright frame.
        camera: Camera whose left and right view edges are drawn; none are drawn without it.
        clearing: Ends of clearing rays [N, 2] or [N, 3], x and y in the upright frame, metres.
        height: Wished height of the picture in pixels; the map takes a whole number of pixels a cell.

    Returns:
        RGB picture.
    """
    along_y, along_x = ground.cells.shape
    pixels = max(1, (height - 2 * MARGIN) // max(along_x, along_y))
    scale = MapScale(ground.origin, (along_x, along_y), ground.resolution, pixels)
    picture = map_picture(np.ascontiguousarray(map_colours(ground.cells).swapaxes(0, 1)), scale)
    for x, y in [] if clearing is None else np.asarray(clearing)[:, :2]:
        column, row = scale.pixel(float(x), float(y))
        if MARGIN <= column < picture.shape[1] - MARGIN and MARGIN <= row < picture.shape[0] - MARGIN:
            picture[row, column] = CLEARING_COLOUR
    draw_axes(picture, scale)
    draw_camera(picture, scale, upright_from_camera, camera)
    return picture
