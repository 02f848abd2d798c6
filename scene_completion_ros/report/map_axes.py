"""Metric axes around a map of the ground, the place of the camera on it, and words on pictures."""

import math
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform

Picture: TypeAlias = NDArray[np.uint8]  # RGB [H, W, 3]

INK = (40, 40, 40)
TEXT_SCALE = 0.42
FONT = cv2.FONT_HERSHEY_SIMPLEX
MARGIN = 46  # pixels around the map for tick labels


def draw_text(
    picture: Picture, words: str, at: tuple[int, int], *, scale: float = TEXT_SCALE, centred: bool = False
) -> None:
    """Write words into a picture, at the left end of their base line, or with the middle of it there."""
    if centred:
        (width, _), _ = cv2.getTextSize(words, FONT, scale, 1)
        at = (at[0] - width // 2, at[1])
    cv2.putText(picture, words, at, FONT, scale, INK, 1, cv2.LINE_AA)


class MapScale:
    """Pixels of points on the ground: x (forward) points up in the picture, y (left) points left.

    `origin`: smallest x and y of the map, metres; `cells`: number of cells along x and along y; `cell_size`: edge of a
    cell, metres; `pixels`: edge of a cell in the picture.
    """

    def __init__(self, origin: tuple[float, float], cells: tuple[int, int], cell_size: float, pixels: int) -> None:
        self.pixels_per_metre = pixels / cell_size  # scale of the picture
        self.x_range = (origin[0], origin[0] + cells[0] * cell_size)  # smallest and largest x, metres
        self.y_range = (origin[1], origin[1] + cells[1] * cell_size)  # smallest and largest y, metres
        # Rows and columns of the map in the picture, without its margin.
        self.size = (cells[0] * pixels, cells[1] * pixels)

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of a point in metres, margin included; far outside of the picture, some far one."""
        column = MARGIN + (self.y_range[1] - y) * self.pixels_per_metre
        row = MARGIN + (self.x_range[1] - x) * self.pixels_per_metre
        return min(max(round(column), -20000), 20000), min(max(round(row), -20000), 20000)


def _tick_values(low: float, high: float, step: float) -> list[float]:
    return [step * i for i in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)]


def map_picture(cells: Picture, scale: MapScale) -> Picture:
    """Colours of cells [X, Y, 3] as a map in a white margin: first row farthest ahead, first column farthest left."""
    rows, columns = scale.size
    picture = np.full((rows + 2 * MARGIN, columns + 2 * MARGIN, 3), 255, dtype=np.uint8)
    edge = rows // len(cells)
    drawn = np.kron(cells[::-1, ::-1], np.ones((edge, edge, 1), np.uint8))
    picture[MARGIN : MARGIN + rows, MARGIN : MARGIN + columns] = drawn
    return picture


def draw_axes(picture: Picture, scale: MapScale) -> None:
    """Draw lines at round metres, and ticks with numbers into the margin."""
    longest = max(scale.x_range[1] - scale.x_range[0], scale.y_range[1] - scale.y_range[0])
    step = next((step for step in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if longest / step <= 12), 100.0)
    top_left, bottom_right = (
        scale.pixel(scale.x_range[1], scale.y_range[1]),
        scale.pixel(scale.x_range[0], scale.y_range[0]),
    )
    grid_lines = picture.copy()
    for x in _tick_values(*scale.x_range, step):
        row = scale.pixel(x, 0.0)[1]
        cv2.line(grid_lines, (top_left[0], row), (bottom_right[0], row), (150, 150, 150), 1)
        cv2.line(picture, (top_left[0] - 5, row), (top_left[0], row), INK, 1)
        draw_text(picture, f"{x:g}", (top_left[0] - 22, row + 4), centred=True)
    for y in _tick_values(*scale.y_range, step):
        column = scale.pixel(0.0, y)[0]
        cv2.line(grid_lines, (column, top_left[1]), (column, bottom_right[1]), (150, 150, 150), 1)
        cv2.line(picture, (column, bottom_right[1]), (column, bottom_right[1] + 5), INK, 1)
        draw_text(picture, f"{y:g}", (column, bottom_right[1] + 19), centred=True)
    inside = (slice(top_left[1], bottom_right[1]), slice(top_left[0], bottom_right[0]))
    cv2.addWeighted(grid_lines[inside], 0.35, picture[inside].copy(), 0.65, 0.0, dst=grid_lines[inside])
    picture[inside] = grid_lines[inside]
    cv2.rectangle(picture, top_left, (bottom_right[0] - 1, bottom_right[1] - 1), INK, 1)
    draw_text(picture, "x forward [m]", (8, MARGIN - 14))
    draw_text(picture, "y left [m]", ((top_left[0] + bottom_right[0]) // 2, bottom_right[1] + 37), centred=True)


def draw_camera(picture: Picture, scale: MapScale, grid_from_camera: RigidTransform, camera: Camera | None) -> None:
    """Draw the camera's place and, where its intrinsics are known, the left and right edges of its view."""
    position = grid_from_camera.translation
    at = scale.pixel(float(position[0]), float(position[1]))
    if camera is not None:
        row = 0.5 * (camera.height - 1)
        edges = camera.unproject(np.array([[-0.5, row], [camera.width - 0.5, row]]))
        for ray in np.asarray(edges, dtype=np.float64) @ grid_from_camera.rotation.T:
            horizontal = math.hypot(float(ray[0]), float(ray[1]))
            if horizontal < 1e-6:
                continue
            end = position[:2] + ray[:2] / horizontal * 200.0
            frame = (MARGIN, MARGIN, scale.size[1], scale.size[0])
            visible, first, last = cv2.clipLine(frame, at, scale.pixel(float(end[0]), float(end[1])))
            if visible:
                cv2.line(picture, first, last, (200, 30, 30), 1, cv2.LINE_AA)
    forward = grid_from_camera.rotation @ np.array([0.0, 0.0, 1.0])
    heading = math.atan2(float(forward[1]), float(forward[0]))
    size = min(1.0, 0.04 * (scale.x_range[1] - scale.x_range[0]))  # metres, smaller in a room
    corners = [
        scale.pixel(*(position[:2] + size * r * np.array([math.cos(heading + a), math.sin(heading + a)])).tolist())
        for r, a in ((1.4, 0.0), (1.0, 2.5), (1.0, -2.5))
    ]
    cv2.fillPoly(picture, [np.asarray(corners, dtype=np.int32)], (200, 30, 30), cv2.LINE_AA)
