"""Pictures of an occupancy evaluation: reliability, IoU by region, and a view from above beside the camera image.

The axes have units, and are drawn with OpenCV as all pictures of this package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.calibration import CalibrationErrors
from scene_completion_ros.evaluation.lidar_occupancy import ORIGINAL, SlabProtocol
from scene_completion_ros.evaluation.occupancy import OccupancyScores
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.report.map_axes import FONT, INK, Picture
from scene_completion_ros.report.pictures import write_picture
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.evaluation.density_model import VOXEL_EDGE, DensityModel, Observation
from scene_completion_training.evaluation.exact_evaluation import ExactResult
from scene_completion_training.evaluation.lidar_evaluation import camera_pitch

PROFILE_X, PROFILE_Z = (-9.0, 9.0), (3.0, 30.0)
"""Metres beside and ahead of the camera that a profile shows."""
PROFILE_HEIGHTS = (0.0, 1.0)
"""Metres below the camera that a profile averages over."""
_STEP = 0.1  # metres between points of a profile
_LAYERS = 5
_MAP_WIDTH = 216  # pixels
_MAP_HEIGHT = round(_MAP_WIDTH * (PROFILE_Z[1] - PROFILE_Z[0]) / (PROFILE_X[1] - PROFILE_X[0]))
_IMAGE_WIDTH, _COLUMNS = 900, 4
_FREE, _OCCUPIED, _UNSEEN = (236, 236, 236), (60, 60, 60), (172, 196, 214)
Colour: TypeAlias = tuple[int, int, int]
PALE: Colour = (220, 220, 220)
# Okabe-Ito, readable with any colour vision.
COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (130, 130, 130),
    (90, 60, 20), (160, 160, 60), (30, 30, 30),
)  # fmt: skip


def blank(height: int, width: int) -> Picture:
    """A white picture."""
    return np.full((height, width, 3), 255, dtype=np.uint8)


def text(picture: Picture, words: str, at: tuple[int, int], *, scale: float = 0.42, align: float = 0.0) -> None:
    """Write words with their baseline at (column, row); align 0 starts there, 0.5 is centred, 1 ends there."""
    # OpenCV's letters are ASCII.
    for letter, plain in (("σ", "sigma"), ("°", " deg"), ("–", "-")):
        words = words.replace(letter, plain)
    (width, _), _ = cv2.getTextSize(words, FONT, scale, 1)
    cv2.putText(picture, words, (round(at[0] - align * width), at[1]), FONT, scale, INK, 1, cv2.LINE_AA)


@dataclass(frozen=True)
class Axes:
    """A rectangle of a picture with data coordinates: x to the right, y up.

    Attributes:
        left, top, width, height: The rectangle, pixels.
        x_range, y_range: Data at its edges.
    """

    picture: Picture
    left: int
    top: int
    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of data coordinates."""
        across = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return round(self.left + across * self.width), round(self.top + (1.0 - up) * self.height)

    def draw(self, title: str, x_label: str, y_label: str, *, x_step: float | None, y_step: float) -> None:
        """Frame, ticks with numbers, labels and a title; no ticks along x without a step."""
        bottom = self.top + self.height
        for y in _ticks(self.y_range, y_step):
            row = self.pixel(self.x_range[0], y)[1]
            cv2.line(self.picture, (self.left - 4, row), (self.left, row), INK, 1)
            text(self.picture, f"{y:g}", (self.left - 7, row + 4), align=1.0)
        for x in _ticks(self.x_range, x_step) if x_step else ():
            column = self.pixel(x, self.y_range[0])[0]
            cv2.line(self.picture, (column, bottom), (column, bottom + 4), INK, 1)
            text(self.picture, f"{x:g}", (column, bottom + 18), align=0.5)
        cv2.rectangle(self.picture, (self.left, self.top), (self.left + self.width, bottom), INK, 1)
        text(self.picture, x_label, (self.left + self.width // 2, bottom + 36), align=0.5)
        text(self.picture, f"{title}   [up: {y_label}]" if y_label else title, (self.left, self.top - 9))

    def bar(self, x_range: tuple[float, float], y: float, colour: Colour) -> None:
        """A filled bar from the lower edge to y."""
        first, last = self.pixel(x_range[0], y), self.pixel(x_range[1], self.y_range[0])
        cv2.rectangle(self.picture, first, last, colour, -1)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, *, marked: bool = False) -> None:
        """A line through points, with a dot at each where marked."""
        pixels = [self.pixel(*point) for point in points]
        cv2.polylines(self.picture, [np.asarray(pixels, dtype=np.int32)], False, colour, 2, cv2.LINE_AA)
        for pixel in pixels if marked else ():
            cv2.circle(self.picture, pixel, 4, colour, -1, cv2.LINE_AA)

    def fill(self, colours: Picture) -> None:
        """Fill the rectangle with an image [h, w, 3] whose first row is at the top."""
        size = (self.width, self.height)
        inside = self.picture[self.top : self.top + self.height, self.left : self.left + self.width]
        inside[:] = cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST)


def legend(picture: Picture, entries: Sequence[tuple[str, Colour]], at: tuple[int, int]) -> None:
    """Names with their colours, one below the other."""
    for number, (name, colour) in enumerate(entries):
        row = at[1] + 18 * number
        cv2.rectangle(picture, (at[0], row - 9), (at[0] + 12, row + 1), colour, -1)
        text(picture, name, (at[0] + 18, row))


def _ticks(limits: tuple[float, float], step: float) -> list[float]:
    first, last = math.ceil(limits[0] / step - 1e-6), math.floor(limits[1] / step + 1e-6)
    return [round(step * number, 9) for number in range(first, last + 1)]


def reliability_diagram(calibration: Mapping[str, CalibrationErrors], title: str) -> Picture:
    """Observed frequency over stated probability, one curve of each name, above how many voxels state it."""
    picture = blank(560, 520)
    axes = Axes(picture, 60, 40, 430, 330, (0.0, 1.0), (0.0, 1.0))
    counts = Axes(picture, 60, 440, 430, 70, (0.0, 1.0), (0.0, 9.0))
    cv2.line(picture, axes.pixel(0.0, 0.0), axes.pixel(1.0, 1.0), PALE, 2, cv2.LINE_AA)
    entries = []
    for number, (name, errors) in enumerate(calibration.items()):
        bins = errors.reliability
        filled = bins.voxels > 0
        colour = COLOURS[number]
        axes.line(list(zip(bins.stated[filled], bins.observed[filled], strict=True)), colour, marked=True)
        width = 1.0 / len(bins.voxels)
        share = width / len(calibration)
        for index in np.flatnonzero(filled):
            start = index * width + number * share
            counts.bar((start, start + 0.8 * share), math.log10(bins.voxels[index]), colour)
        entries.append((f"{name}: ECE {errors.expected_calibration_error:.4f}", colour))
    axes.draw(title, "stated probability", "observed frequency", x_step=0.2, y_step=0.2)
    counts.draw("voxels", "stated probability", "log10 of their number", x_step=0.2, y_step=3.0)
    legend(picture, entries, (axes.left + 190, axes.top + axes.height - 18 * len(entries)))
    return picture


def iou_bars(voxels: Mapping[tuple[str, str], Mapping[tuple[float, str], OccupancyScores]]) -> Picture:
    """IoU by (model, rule) and (range, region): bars of every method by region, one panel a range."""
    cells = list(dict.fromkeys(key for found in voxels.values() for key in found))
    ranges, regions = sorted({range_m for range_m, _ in cells}), list(dict.fromkeys(region for _, region in cells))
    width, panel = 1000, 190
    bottom = 30 + len(ranges) * (panel + 60)
    picture = blank(bottom + 18 * len(voxels) + 16, width)
    for row, range_m in enumerate(ranges):
        axes = Axes(picture, 56, 40 + row * (panel + 60), width - 76, panel, (0.0, len(regions)), (0.0, 100.0))
        for place, region in enumerate(regions):
            for number, found in enumerate(voxels.values()):
                iou = found[range_m, region].iou if (range_m, region) in found else math.nan
                left = place + 0.08 + 0.84 * number / len(voxels)
                if not math.isnan(iou):
                    axes.bar((left, left + 0.7 / len(voxels)), 100.0 * iou, COLOURS[number % len(COLOURS)])
            text(picture, region, (axes.pixel(place + 0.5, 0.0)[0], axes.top + panel + 18), align=0.5)
        axes.draw(f"within {range_m:g} m", "", "IoU in percent", x_step=None, y_step=20.0)
    names = [f"{model} ({rule})" for model, rule in voxels]
    legend(picture, [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(names)], (60, bottom + 10))
    return picture


def profile_points(protocol: SlabProtocol) -> NDArray[np.float64]:
    """Points of a profile, [layers, Z, X, 3], optical frame; rows from far to near, columns from left to right."""
    x = np.arange(PROFILE_X[0] + _STEP / 2.0, PROFILE_X[1], _STEP)
    z = np.arange(PROFILE_Z[0] + _STEP / 2.0, PROFILE_Z[1], _STEP)[::-1]
    y = np.linspace(*PROFILE_HEIGHTS, _LAYERS)
    grid = np.stack(np.meshgrid(y, z, x, indexing="ij")[::-1], axis=-1)  # x, z, y
    return np.asarray(protocol.level_from_camera.inverse().apply(grid[..., [0, 2, 1]]))


def probability_map(model: DensityModel, observation: Observation, points_camera: NDArray[np.float64]) -> Picture:
    """Mean probability over the heights of a profile, free bright and occupied dark; opacity where not calibrated."""
    density = observation.density(points_camera.reshape(-1, 3).astype(np.float32))
    probability = model.calibration.apply(opacity(density, VOXEL_EDGE))
    probability = probability.reshape(points_camera.shape[:3]).mean(axis=0)
    coloured = cv2.applyColorMap(np.round(255.0 * (1.0 - probability)).astype(np.uint8), cv2.COLORMAP_MAGMA)
    return np.asarray(coloured[..., ::-1], dtype=np.uint8)


def truth_map(truth: VoxelTruth, points_camera: NDArray[np.float64]) -> Picture:
    """Whether any voxel over the heights of a profile is occupied (dark) or free (light); blue where unknown."""
    index, inside = truth.grid.index_of(truth.grid_from_camera.apply(points_camera))
    place = tuple(np.moveaxis(np.where(np.asarray(inside)[..., None], index, 0), -1, 0))
    known = truth.known[place] & np.asarray(inside)
    occupied = (truth.occupied[place] & known).any(axis=0)
    return _two_colours(occupied, known.any(axis=0))


def profile_picture(
    sequence: PosedSequence,
    index: int,
    truth: VoxelTruth | None,
    observed: Sequence[tuple[DensityModel, Observation]],
    protocol: SlabProtocol,
) -> Picture:
    """The camera image above top-down views, level by the protocol, of the ground truth and of what each model says."""
    points = profile_points(protocol)
    maps = [("ground truth", truth_map(truth, points))] if truth is not None else []
    maps += [(model.name, probability_map(model, observation, points)) for model, observation in observed]
    image = sequence.image(index, reference_camera(sequence))
    height = round(image.shape[0] * _IMAGE_WIDTH / image.shape[1])
    top = height + 92
    rows = -(-len(maps) // _COLUMNS)
    across, down = _MAP_WIDTH + 64, _MAP_HEIGHT + 76
    picture = blank(top + rows * down, 20 + _COLUMNS * across)
    text(picture, f"{sequence.name}, frame {index}", (10, 20), scale=0.5)
    resized = cv2.resize(image, (_IMAGE_WIDTH, height), interpolation=cv2.INTER_AREA)
    picture[30 : 30 + height, 10 : 10 + _IMAGE_WIDTH] = resized
    low, high = PROFILE_HEIGHTS
    words = (
        f"from above, z ahead [m] up: mean probability from {low:g} to {high:g} m below the camera, opacity where not "
        "calibrated (dark: occupied; blue: unknown; lines: edges of the image)"
    )
    text(picture, words, (10, height + 52))
    for number, (name, colours) in enumerate(maps):
        row, column = divmod(number, _COLUMNS)
        corner = (46 + column * across, top + row * down)
        axes = Axes(picture, *corner, _MAP_WIDTH, _MAP_HEIGHT, PROFILE_X, PROFILE_Z)
        axes.fill(colours)
        _draw_view(axes, sequence)
        axes.draw("", "x right [m]", "", x_step=3.0, y_step=3.0)
        text(picture, name, (axes.left, axes.top - 9), scale=0.38)
    return picture


def _draw_view(axes: Axes, sequence: PosedSequence) -> None:
    """The left and right edges of the image."""
    camera = sequence.cameras[reference_camera(sequence)]
    row = camera.cy
    for ray in np.asarray(camera.unproject(np.array([[-0.5, row], [camera.width - 0.5, row]]))):
        if np.isfinite(ray).all():
            frame = (axes.left, axes.top, axes.width, axes.height)
            ends = (axes.pixel(0.0, 0.0), axes.pixel(float(ray[0]) * 100.0, 100.0))
            visible, first, last = cv2.clipLine(frame, *ends)
            if visible:
                cv2.line(axes.picture, first, last, COLOURS[1], 1, cv2.LINE_AA)


def _two_colours(occupied: NDArray[np.bool_], known: NDArray[np.bool_]) -> Picture:
    colours = np.empty((*occupied.shape, 3), dtype=np.uint8)
    colours[:] = _UNSEEN
    colours[known] = _FREE
    colours[occupied] = _OCCUPIED
    return colours


class FrameProfiles:
    """Writes the profile of the first evaluated frame of every recording; a hook of `occupancy_run.evaluate`.

    Args:
        pitch: How far the reference camera looks down, radians; None for what is known of the data set.
    """

    def __init__(self, folder: Path, pitch: float | None = None) -> None:
        self._folder = folder
        self._pitch = pitch
        self._done: set[str] = set()

    def __call__(
        self,
        sequence: PosedSequence,
        index: int,
        truth: VoxelTruth | None,
        observed: list[tuple[DensityModel, Observation]],
    ) -> None:
        """Draw, if this is the recording's first frame."""
        if sequence.name not in self._done:
            self._done.add(sequence.name)
            pitch = camera_pitch(sequence) if self._pitch is None else self._pitch
            protocol = replace(ORIGINAL, camera_pitch=pitch)
            picture = profile_picture(sequence, index, truth, observed, protocol)
            write_picture(self._folder / _file_name("profile", f"{sequence.name}_{index:06d}"), picture)


def write_plots(folder: Path, result: ExactResult, evaluated: Sequence[str]) -> None:
    """Write the bars of all methods and the reliability diagram of each evaluated model."""
    write_picture(folder / _file_name("iou", "by_region"), iou_bars(result.voxels))
    for name in evaluated:
        diagram = reliability_diagram(result.calibration[name], name)
        write_picture(folder / _file_name("reliability", name), diagram)


def _file_name(kind: str, name: str) -> str:
    return f"{kind}_{name}.png".replace("/", "_").replace(" ", "_")
