"""Pictures of completed voxels: depth, bird's-eye view with metric axes, and a panel of both and the camera image.

Where the student knows several classes, the panel has a legend of their colours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Floats, Ints
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.colours import ROOM_DEPTHS, STATE_COLOURS, STREET_DEPTHS, depth_colours, voxel_colours
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, VoxelState, as_classes
from scene_completion_ros.whole_files import write_whole

Picture: TypeAlias = Bytes  # RGB [H, W, 3]

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
    edge = scale.size[0] // len(cells)
    drawn = np.kron(cells[::-1, ::-1], np.ones((edge, edge, 1), np.uint8))
    return np.pad(drawn, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)


def draw_axes(picture: Picture, scale: MapScale) -> None:
    """Draw lines at round metres, and ticks with numbers into the margin."""
    longest = max(scale.x_range[1] - scale.x_range[0], scale.y_range[1] - scale.y_range[0])
    step = next((step for step in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if longest / step <= 12), 100.0)
    top_left, bottom_right = (scale.pixel(scale.x_range[end], scale.y_range[end]) for end in (1, 0))
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


def heading_of(grid_from_camera: RigidTransform) -> float:
    """Where a camera looks on the ground, radians to the left of the grid's x axis."""
    return math.atan2(*grid_from_camera.rotation[1::-1, 2].tolist())


def draw_camera(picture: Picture, scale: MapScale, grid_from_camera: RigidTransform, camera: Camera) -> None:
    """Draw the camera's place, and the left and right edges of its view."""
    position = grid_from_camera.translation
    at = scale.pixel(float(position[0]), float(position[1]))
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
    heading = heading_of(grid_from_camera)
    size = min(1.0, 0.04 * (scale.x_range[1] - scale.x_range[0]))  # metres, smaller in a room
    corners = [
        scale.pixel(*(position[:2] + size * r * np.array([math.cos(heading + a), math.sin(heading + a)])).tolist())
        for r, a in ((1.4, 0.0), (1.0, 2.5), (1.0, -2.5))
    ]
    cv2.fillPoly(picture, [np.asarray(corners, dtype=np.int32)], (200, 30, 30), cv2.LINE_AA)


_FRAME = (150, 150, 150)
_PANEL_WIDTH, _GAP = 640, 12  # pixels: of the pictures on the left of a panel, between pictures
_MAP_HEIGHT = 620  # pixels that a map should have; it takes a whole number of pixels a voxel
_NO_VOXEL = (225, 225, 225)
_FACE_LIGHT = np.array([0.7, 0.85, 1.0])  # of faces across x, y and z


def fit_width(picture: Picture, width: int, interpolation: int = cv2.INTER_AREA) -> Picture:
    """The picture at a width in pixels, its height in proportion."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation), dtype=np.uint8)


def depth_picture(depth: Floats, grid: VoxelGrid | None = None) -> Picture:
    """Depth [H, W] along the optical axis, metres or not finite, in colours with a scale.

    `grid`: that of the voxels next to it; where it is no larger than a room, colours are those of depths in rooms.
    """
    small = grid is not None and grid.shape[0] * grid.voxel_size < ROOM_DEPTHS[1]
    nearest, farthest = between = ROOM_DEPTHS if small else STREET_DEPTHS
    coloured = fit_width(depth_colours(depth, between), _PANEL_WIDTH, cv2.INTER_LINEAR)
    # The bar is even in the logarithm of depth, as the colours are.
    colours = depth_colours(np.geomspace(nearest, farthest, _PANEL_WIDTH - 40), between)
    whole = math.log(farthest / nearest)
    metres = (1, 2, 3, 4, 5, 7, 10) if small else (3, 4, 5, 7, 10, 15, 20, 30, 50, 80)
    return np.concatenate([coloured, _scale_bar(colours, {m: math.log(m / nearest) / whole for m in metres})])


def _scale_bar(colours: Bytes, ticks: Mapping[int, float]) -> Picture:
    """Colours [w, 3] side by side, 20 pixels of white at both ends, and ticks in metres at places from 0 to 1."""
    length = len(colours)
    bar = np.full((34, length + 40, 3), 255, dtype=np.uint8)
    bar[4:16, 20:-20] = colours
    for metres, fraction in ticks.items():
        column = 20 + round(fraction * (length - 1))
        cv2.line(bar, (column, 16), (column, 19), INK, 1)
        draw_text(bar, f"{metres} m", (column, 31), scale=0.38, centred=True)
    return bar


def _map_cells(voxels: SemanticVoxels) -> Picture:
    """Colour of every column of the grid [X, Y, 3]: its highest occupied voxel, else its free space."""
    state = voxels.state
    cells = np.empty((*state.shape[:2], 3), dtype=np.uint8)
    cells[:] = STATE_COLOURS[int(VoxelState.UNOBSERVED)]
    cells[(state == VoxelState.FREE_INFERRED).any(axis=2)] = STATE_COLOURS[int(VoxelState.FREE_INFERRED)]
    cells[(state == VoxelState.FREE_SEEN).any(axis=2)] = STATE_COLOURS[int(VoxelState.FREE_SEEN)]
    by_height = np.argsort(voxels.index[:, 2], kind="stable")  # the highest voxel of a column is written last
    colours = voxel_colours(voxels.label, voxels.points_grid()[:, 2], voxels.class_colours)
    index = voxels.index[by_height]
    cells[index[:, 0], index[:, 1]] = colours[by_height]
    return cells


def birds_eye_view(voxels: SemanticVoxels, camera: Camera) -> Picture:
    """The grid from above, forward up and left to the left, with axes in metres and the camera's view.

    Every column shows the colour of its highest occupied voxel, else its free space.
    """
    grid = voxels.grid
    cell = max(1, (_MAP_HEIGHT - 2 * MARGIN) // max(grid.shape[:2]))
    scale = MapScale((grid.origin[0], grid.origin[1]), (grid.shape[0], grid.shape[1]), grid.voxel_size, cell)
    picture = map_picture(_map_cells(voxels), scale)
    draw_axes(picture, scale)
    draw_camera(picture, scale, voxels.grid_from_camera, camera)
    return picture


def voxel_view(voxels: SemanticVoxels, camera: Camera, *, width: int) -> Picture:
    """The voxels from where the camera is: along each ray the first occupied one in its colour, its sides darker.

    Returns RGB picture; light grey where there is no voxel. `camera`: camera that took the image; lens distortion is
    ignored; `width`: width of the picture in pixels, two a ray.
    """
    rays = voxel_rays(voxels.grid, voxels.grid_from_camera, camera, width // 2)
    hit = rays.first_hits(voxels)
    met = hit >= 0
    label = np.zeros(voxels.grid.shape, dtype=np.uint8)
    label[tuple(voxels.index.T)] = voxels.label
    voxel = rays.voxel[hit[met]]
    height = voxels.grid.origin[2] + (voxel % voxels.grid.shape[2] + 0.5) * voxels.grid.voxel_size
    colours = voxel_colours(label.reshape(-1)[voxel], height.astype(np.float32), voxels.class_colours)
    picture = np.full((len(hit), 3), _NO_VOXEL, dtype=np.uint8)
    picture[met] = np.rint(colours * _FACE_LIGHT[rays.face[hit[met]], None])
    return fit_width(picture.reshape(*rays.shape, 3), width, cv2.INTER_NEAREST)


def class_legend(class_names: Sequence[str], class_colours: Sequence[tuple[int, int, int]], *, width: int) -> Picture:
    """Colours and names by label in rows of `width` pixels; not ASCII, which the font lacks, becomes a mark."""
    side, gap, row_height = 12, 18, 20
    drawable = [name.encode("ascii", "replace").decode() for name in class_names]
    places, column, row = [], 0, 0
    for name in drawable:
        (needed, _), _ = cv2.getTextSize(name, FONT, TEXT_SCALE, 1)
        needed += side + 6
        if column and column + needed > width:
            column, row = 0, row + 1
        places.append((column, row * row_height))
        column += needed + gap
    picture = np.full(((row + 1) * row_height, width, 3), 255, dtype=np.uint8)
    for name, (x, y), colour in zip(drawable, places, class_colours, strict=True):
        corners = (x, y + 4), (x + side, y + 4 + side)
        cv2.rectangle(picture, *corners, tuple(map(int, colour)), cv2.FILLED)
        cv2.rectangle(picture, *corners, _FRAME, 1)
        draw_text(picture, name, (x + side + 6, y + 15))
    return picture


def next_to_map(left: Sequence[tuple[str, Picture]], birds_eye: Picture, *, title: str, width: int) -> Picture:
    """Pictures with their names, `width` pixels wide, below each other, and the bird's-eye view on their right."""
    heading = 34 if title else _GAP
    height = heading + max(birds_eye.shape[0], sum(tile.shape[0] + 24 for _, tile in left)) + _GAP
    column = width + 2 * _GAP
    picture = np.full((height, column + birds_eye.shape[1] + _GAP, 3), 255, dtype=np.uint8)
    if title:
        draw_text(picture, title, (_GAP, 22), scale=0.55)
    row = heading
    for name, tile in left:
        draw_text(picture, name, (_GAP, row + 14), scale=0.45)
        picture[row + 20 : row + 20 + tile.shape[0], _GAP : _GAP + width] = tile
        row += tile.shape[0] + 24
    picture[heading : heading + birds_eye.shape[0], column : column + birds_eye.shape[1]] = birds_eye
    return picture


def panel(
    image: Picture,
    depth: Picture,
    birds_eye: Picture,
    *,
    title: str,
    depth_name: str = "depth",
    class_names: Sequence[str] = (),
    class_colours: Sequence[tuple[int, int, int]] = (),
) -> Picture:
    """Camera image over depth on the left, bird's-eye view on the right, the legend of several classes below."""
    left = [(name, fit_width(tile, _PANEL_WIDTH)) for name, tile in (("camera", image), (depth_name, depth))]
    picture = next_to_map(left, birds_eye, title=title, width=_PANEL_WIDTH)
    if len(class_names) < 2:
        return picture
    legend = class_legend(class_names, class_colours, width=picture.shape[1] - 2 * _GAP)
    return np.concatenate([picture, np.pad(legend, ((0, _GAP), (_GAP, _GAP), (0, 0)), constant_values=255)])


def words_panel(
    image: Picture, voxels: SemanticVoxels, matches: Sequence[PhraseMatches], *, camera: Camera, title: str = ""
) -> Picture:
    """Image, voxels as the camera (no lens distortion) sees them and from above, coloured by the likeliest word."""
    lit = as_classes(voxels, matches)
    tiles = image, voxel_view(lit, camera, width=_PANEL_WIDTH), birds_eye_view(lit, camera)
    name, names, colours = "voxels from where the camera is", lit.class_names, lit.class_colours
    return panel(*tiles, title=title, depth_name=name, class_names=names, class_colours=colours)


_QUALITY_SETTING = {".jpg": cv2.IMWRITE_JPEG_QUALITY, ".webp": cv2.IMWRITE_WEBP_QUALITY}


def encode_picture(picture: Picture, extension: str, *, quality: int = 85) -> bytes:
    """Bytes of a ``.jpg``, ``.webp`` or ``.png`` file of an RGB picture; the last needs no quality."""
    settings: Sequence[int] = (_QUALITY_SETTING[extension], quality) if extension in _QUALITY_SETTING else ()
    _, data = cv2.imencode(extension, cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR), list(settings))
    return data.tobytes()


def write_picture(path: str | Path, picture: Picture) -> None:
    """Write an RGB picture; the suffix (``.png`` or ``.jpg``) chooses the format."""
    path = Path(path)
    write_whole(path, encode_picture(picture, path.suffix))


@dataclass(frozen=True, eq=False)
class VoxelRays:
    """The voxels that every ray passes, one entry a voxel: those of the first ray from near to far, then the next's."""

    shape: tuple[int, int]  # rows and columns of the picture; a ray a pixel, row by row
    voxel: NDArray[np.int32]  # int32 [E], flat index (x·Y + y)·Z + z of the voxel
    face: Bytes  # uint8 [E], the axis of the face that it came in by: 0 x, 1 y, 2 z
    end: Ints  # int64 [R], one past the last entry of each ray

    def first_hits(self, voxels: SemanticVoxels) -> Ints:
        """The entry of the first occupied voxel along each ray, int64 [R]; -1 where a ray meets none."""
        occupied = np.zeros(voxels.grid.shape, dtype=bool)
        occupied[tuple(voxels.index.T)] = True
        hits = np.append(np.flatnonzero(occupied.reshape(-1)[self.voxel]), len(self.voxel))
        begin = np.concatenate([[0], self.end[:-1]])
        first = hits[np.searchsorted(hits, begin)]
        return np.where(first < self.end, first, -1)


@lru_cache(maxsize=2)  # 20 MB for the usual grid; making them takes as long as showing ten frames
def voxel_rays(grid: VoxelGrid, grid_from_camera: RigidTransform, camera: Camera, columns: int) -> VoxelRays:
    """Follow the rays of a small picture through a grid, in steps of half a voxel of depth.

    `camera`: camera that took the image; lens distortion is ignored; `columns`: width of the picture; its height
    follows the camera's aspect.
    """
    small = camera.without_distortion().resized(columns, max(1, round(camera.height * columns / camera.width)))
    rays = np.asarray(small.unproject(small.pixel_centres()), dtype=np.float64)  # [h, w, 3], z = 1
    shape = np.asarray(grid.shape)
    origin = (grid_from_camera.translation - np.asarray(grid.origin)) / grid.voxel_size
    directions = rays @ grid_from_camera.rotation.T / grid.voxel_size  # voxels a metre of depth
    voxel, face, counts = [], [], []
    for row in directions:
        with np.errstate(divide="ignore", invalid="ignore"):  # along an axis a ray may not move
            left_box = np.nanmin(np.maximum(-origin / row, (shape - origin) / row), axis=1)
        depth = np.arange(0.5 * grid.voxel_size, max(float(left_box.max()), grid.voxel_size), 0.5 * grid.voxel_size)
        place = origin.astype(np.float32) + row.astype(np.float32)[:, None] * depth.astype(np.float32)[:, None]
        index = np.floor(np.clip(place, -1, shape)).astype(np.int32)  # [w, steps, 3]
        inside = ((index >= 0) & (index < shape)).all(axis=-1)
        moved = np.ones(index.shape, dtype=bool)
        moved[:, 1:] = index[:, 1:] != index[:, :-1]
        entered = inside & moved.any(axis=-1)
        voxel.append(np.ravel_multi_index(tuple(index[entered].T), grid.shape).astype(np.int32))
        face.append((2 - np.argmax(moved[entered][:, ::-1], axis=1)).astype(np.uint8))
        counts.append(entered.sum(axis=1))
    end = np.cumsum(np.concatenate(counts))
    return VoxelRays((small.height, small.width), np.concatenate(voxel), np.concatenate(face), end)
