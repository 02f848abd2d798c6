"""Cells look up the image, and voxels follow from their pixels and cells: grid sampling before and behind the network.

All that depends on a camera's pose in the volume is computed once (`CellLift`), and so is where the voxels of a grid
lie before the camera (`CellSamples`). A voxel is what its pixel sees, with a probability that follows from depth and
its deviation, or lies before or behind that; for the latter two the network predicts the occupancy. The ground is a
surface of its own: a cell of 0.2 m cannot hold five centimetres.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Integers, Mask, Reals
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.cell_kernels import classify_cells, find_lowest, look_up, query_voxels
from scene_completion_ros.inference.cells import STRIDE, CellVolume, stated_ground
from scene_completion_ros.inference.field_kernels import label_kernel
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.label_query import NO_WORDS, Labelled, Units, Words, WordScores, samples_of_targets
from scene_completion_ros.inference.query_kernel import view_of
from scene_completion_ros.jit import aligned_empty

_AT_CENTRE = 1e-3  # share of a voxel: float32 places of centres are not exact
_BEYOND = 1.1  # of the depth at which a volume ends: grids are turned and shifted a little


class Pixels(NamedTuple):
    """What the pixels of an image show, at half its size."""

    surfaces: Floats  # float32 [h, w, 2], inverse depth code and deviation of the logarithm of depth
    classes: Floats  # float32 [h, w, K + 1], probabilities of the classes and of the sky
    context: Floats  # float32 [h, w, C], what else cells look up


class PredictedCells(NamedTuple):
    """What a student's network predicts of cells, x y z, and columns of them, x y."""

    hidden: Floats  # float32 [x y z, 8], logits of voxels in cells, where pixels see something before them
    others: Floats  # float32 [x y z, `CellVolume.of_cell`]
    ground: Floats  # float32 [x y, 2], height of the ground in the grid and standard deviation, metres
    # float32 [N, Z + 1], see `CellVolume.prior_shape`: of coarse columns, the share w that a prior has in the
    # probabilities of what does not stand on the ground, as the last number, and before it w times the prior by height:
    # that of the Z voxels of the grid, were the ground at the volume's level. Empty without a prior.
    prior: Floats = np.zeros((0, 1), np.float32)


@dataclass(frozen=True, eq=False)
class CellSamples:
    """Points whose voxels are wanted again and again."""

    points: Floats  # [3, N], in the camera's optical frame, metres
    target: NDArray[np.int32]  # [N], where each result is written
    between: bool = True  # they lie between the centres of the volume's voxels, not at these


class CellLift:
    """What the cells of a student's volume look up, for one pose of its camera in the volume.

    `spec`: point code of the depths; `volume_from_camera`: see `cells.volume_pose`; None where it is unknown, for which
    the usual one is taken, and the network learns so.
    """

    def __init__(
        self, volume: CellVolume, canonical: Camera, spec: PointCodeSpec, volume_from_camera: RigidTransform | None
    ) -> None:
        self.volume, self.spec, self.known_place = volume, spec, volume_from_camera
        self.stated = stated_ground(canonical, spec, volume.level, volume_from_camera)  # what the encoder is given
        self.volume_from_camera = volume_from_camera or DEFAULT_GRID_FROM_CAMERA
        self.map_size = canonical.height // 2, canonical.width // 2
        height, width = self.map_size
        # Column and row of the map by x / z and y / z of a point; nearer ones are projected from this depth.
        half = canonical.resized(width, height)
        self.pinhole = np.array([half.fx, half.cx, half.fy, half.cy], np.float32)
        self.nearest = np.float32(spec.minimum_depth)
        grid, (count_x, count_y, heights) = volume.grid, volume.cells
        cells = VoxelGrid(grid.origin, STRIDE * grid.voxel_size, volume.cells, grid.frame)
        points, place, in_view = self._places(cells.centres().reshape(-1, 3))
        place = np.clip(place[in_view], 0.0, np.array([width, height]) - 1.0)
        corner = np.minimum(place.astype(np.int32), np.array([width, height], np.int32) - 2)
        # Of cells in view: their numbers, the upper left of four taps, the shares of those to the right and below, and
        # their z-depth, metres.
        self.cell = np.flatnonzero(in_view).astype(np.int32)
        self.corner = (corner[:, 1] * width + corner[:, 0]).astype(np.int32)
        self.share = (place - corner).astype(np.float32)
        self.depth = points[in_view, 2].astype(np.float32)
        self.lifted = samples_of_targets(self.cell, len(in_view))  # the number of each cell among these; -1 for none
        self._prepare_low()
        self._local = aligned_empty(len(in_view), volume.looked_up)
        self._local[:] = 0.0  # of cells out of view, which are never written
        # What columns are given, float32 [x y, z + 4], of which the last is written for each image.
        self.columns = np.zeros((count_x * count_y, volume.of_column), np.float32)
        self.columns[:, :heights] = in_view.reshape(-1, heights)
        across = (2.0 * (np.arange(count) + 0.5) / count - 1.0 for count in (count_x, count_y))
        self.columns[:, heights : heights + 2] = np.stack(np.meshgrid(*across, indexing="ij"), -1).reshape(-1, 2)
        self.columns[:, heights + 2] = volume_from_camera is not None

    def _places(self, places: Reals) -> tuple[Doubles, Doubles, Mask]:
        """Points [N, 3] in the camera, column and row [N, 2] in the map, and whether the image shows them [N]."""
        height, width = self.map_size
        points = np.asarray(self.volume_from_camera.inverse().apply(places))
        depth = np.maximum(points[:, 2], float(self.nearest))
        fx, cx, fy, cy = self.pinhole.astype(np.float64)
        pixels = np.stack([fx * points[:, 0] / depth + cx, fy * points[:, 1] / depth + cy], axis=-1)
        shown = (pixels >= -0.5) & (pixels <= (width - 0.5, height - 0.5))
        return points, pixels, shown.all(axis=1) & (points[:, 2] > 0.0)

    def _prepare_low(self) -> None:
        """The low voxels in view, column of cells by column of cells."""
        grid, (count_x, count_y, _), low = self.volume.grid, self.volume.cells, self.volume.low
        height, width = self.map_size
        columns, shape = count_x * count_y, (*grid.shape[:2], low)
        voxels = VoxelGrid(grid.origin, grid.voxel_size, shape, grid.frame).centres().reshape(-1, 3)
        points, pixels, in_view = self._places(voxels)
        x, y, _ = np.indices(shape, dtype=np.int32).reshape(3, -1)
        column = (x // STRIDE) * count_y + y // STRIDE
        chosen = np.flatnonzero(in_view)
        chosen = chosen[np.argsort(column[chosen], kind="stable")]
        place = np.clip(np.rint(pixels[chosen]).astype(np.int32), 0, (width - 1, height - 1))
        self.low_first = np.searchsorted(column[chosen], np.arange(columns + 1)).astype(np.int32)
        self.low_pixel = (place[:, 1] * width + place[:, 0]).astype(np.int32)
        self.low_depth = points[chosen, 2].astype(np.float32)
        self.low_hidden = np.bincount(column[~in_view], minlength=columns).astype(np.float32)
        metres = grid.voxel_size * low / np.bincount(column, minlength=columns)
        self.low_share = metres.astype(np.float32)
        self._under = np.empty(len(chosen), np.float32)

    def __call__(self, surfaces: Floats, context: Floats) -> tuple[Floats, Floats]:
        """What cells [x y z, L] and columns [x y, z + 4] are given; overwritten by the next call.

        `surfaces`: logarithm of depth and its deviation, of the pixels of an image at half its size, float32 [h, w, 2];
        `context`: what the encoder gives of these, float32 [h, w, C].
        """
        flat, measure, grid = surfaces.reshape(-1, 2), np.float32(self.volume.measure), self.volume.grid
        taps = self.cell, self.corner, self.share, self.depth
        look_up(flat, context.reshape(len(flat), -1), self.map_size[1], *taps, measure, self._local)
        base, size = np.float32(grid.origin[2] - self.volume.level), np.float32(grid.voxel_size)
        low = self.low_first, self.low_pixel, self.low_depth, self.low_hidden, self.low_share
        find_lowest(flat, *low, base, size, measure, self._under, self.columns[:, -1])
        return self._local, self.columns


class CellQuery:
    """Voxels of one student's cells, at any points before its camera."""

    def __init__(self, lift: CellLift) -> None:
        self.lift, self.volume = lift, lift.volume
        grid = self.volume.grid
        rotation, translation = lift.volume_from_camera.rotation, lift.volume_from_camera.translation
        place = (translation - np.asarray(grid.origin)) / grid.voxel_size
        # float32 [3, 4], voxel coordinates of the volume from the camera.
        self.pose = np.concatenate([rotation / grid.voxel_size, place[:, None]], axis=1).astype(np.float32)

    @staticmethod
    def prepare(points_camera: Doubles, target: NDArray[np.int32]) -> CellSamples:
        """Prepares points [N, 3] (optical frame, metres) whose results go to ``target`` [N]."""
        return CellSamples(np.ascontiguousarray(points_camera.T, np.float32), target)

    def __call__(
        self,
        surfaces: Floats,  # as `CellLift` takes them
        predicted: PredictedCells,
        samples: CellSamples,
        out: Floats,  # float32 [M], flat
        length: float = 0.0,  # metres; alpha = 1 - exp(-sigma length) is written where it is positive
        stands: Mask | None = None,  # bool [M], flat: what lies `STANDS_M` above the predicted ground
    ) -> None:
        """Writes density per metre, or opacity over a length, to ``out[target]``."""
        grid, lift = self.volume.grid, self.lift
        of_grid = (np.float32(value) for value in (grid.origin[2], grid.voxel_size, self.volume.measure, length))
        query_voxels(
            *(surfaces.reshape(-1, 2), *lift.map_size, *predicted, grid.shape, samples.points),
            *(tuple(lift.pinhole), lift.nearest, tuple(self.pose.reshape(-1)), *of_grid),  # numbers, not arrays
            *(np.float32(grid.origin[2] - self.volume.level), max(self.volume.prior, 1)),
            *(samples.between, samples.target, out, np.empty(0, np.bool_) if stands is None else stands),
        )

    def cells_of(self, points_camera: Reals) -> tuple[NDArray[np.int32], bool]:
        """Numbers [N] of the cells that points [N, 3] (optical frame, metres) lie in; outside, of the nearest.

        Also whether any point lies between the centres of voxels of the volume.
        """
        grid, shape = self.volume.grid, np.array(self.volume.grid.shape)
        place = self.lift.volume_from_camera.apply(points_camera.astype(np.float64)) - np.asarray(grid.origin)
        place = np.clip(place / grid.voxel_size, 0.5, shape - 0.5)
        voxel = np.floor(place).astype(np.int64)
        cells = np.asarray(np.ravel_multi_index(tuple((voxel // STRIDE).T), self.volume.cells), np.int32)
        return cells, bool(np.abs(place - voxel - 0.5).max(initial=0.0) > _AT_CENTRE)

    def classes(self, others: Floats, of_pixels: Floats, chosen: NDArray[np.int32]) -> tuple[Floats, Bytes, Floats]:
        """Of cells [N]: probabilities of the classes [N, K], and the likeliest class [N] with its probability [N].

        `others`: see `PredictedCells`; `of_pixels`: probabilities of the classes of pixels, float32 [h, w, K + 1].
        """
        count, classes = len(chosen), self.volume.classes
        found = np.empty((count, classes), np.float32), np.empty(count, np.uint8), np.empty(count, np.float32)
        flat, lift = of_pixels.reshape(-1, classes + 1), self.lift
        taps = lift.map_size[1], chosen, lift.lifted, lift.corner, lift.share
        classify_cells(others, self.volume.of_cell - classes - 1, flat, *taps, *found)
        return found


class CellVoxels:
    """The voxels of a grid, of a student's cells."""

    def __init__(
        self,
        query: CellQuery,
        spec: PointCodeSpec,
        canonical: Camera,
        grid: VoxelGrid,
        camera_from_grid: RigidTransform,  # its pose; any rigid transform
        *,
        coverage: Mask | None = None,  # see `view_of`
    ) -> None:
        volume = query.volume.grid
        self.query, self.grid = query, grid
        self.far = min(spec.far, _BEYOND * (volume.origin[0] + volume.voxel_size * (volume.shape[0] - 0.5)))
        prepared = view_of(canonical, grid, camera_from_grid, self.far, coverage, query.prepare)
        self.in_view, self.too_far, parts = prepared
        target = np.concatenate([part.target for part in parts])
        points = np.concatenate([part.points for part in parts], axis=1)
        cells, between = zip(*(query.cells_of(part.points.T) for part in parts), strict=True)  # of all: 140 MB more
        self.samples = CellSamples(points, target, any(between))
        self.cell_of = np.zeros(self.in_view.size, np.int32)  # the cell of each voxel in view
        self.cell_of[target] = np.concatenate(cells)
        classes = query.volume.classes
        itself = np.eye(classes, dtype=np.float32), np.zeros(classes, np.float32)
        self._scores = WordScores(label_kernel(0, classes, computed=True), *itself)

    def opacity(self, surfaces: Floats, predicted: PredictedCells) -> tuple[Floats, Mask]:
        """Opacity over an edge of every voxel, 0 outside the view, and what stands on the ground, both [X, Y, Z].

        See `CellQuery`.
        """
        out, stands = np.zeros(self.grid.shape, np.float32), np.zeros(self.grid.shape, np.bool_)
        flat = out.reshape(-1), self.grid.voxel_size, stands.reshape(-1)
        self.query(surfaces, predicted, self.samples, *flat)
        return out, stands

    def labels(self, others: Floats, of_pixels: Floats, targets: Integers, words: Words = NO_WORDS) -> Labelled:
        """Labels and matches of voxels in view [N], flat indices: those of their cells; see `CellQuery.classes`."""
        if not words.labels and words.queried is None:
            return Labelled(np.zeros(len(targets), np.uint8), np.ones(len(targets), np.float32))
        cell = self.cell_of.take(targets).astype(np.intp)  # NumPy converts other indices piece by piece
        wanted = np.zeros(len(others), np.bool_)  # each cell once: it has several voxels
        wanted[cell] = True
        chosen = np.flatnonzero(wanted).astype(np.int32)
        number = np.empty(len(others), np.int32)
        number[chosen] = np.arange(len(chosen), dtype=np.int32)
        row = number.take(cell)
        units, label, confidence = self.query.classes(others, of_pixels, chosen)
        read = units, 0, *(np.zeros((2, 0), np.float32) for _ in range(3))
        taps = np.zeros(0, np.int32), np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32)
        points = Units(read, (row, np.arange(len(row), dtype=np.int32), *taps))
        if not words.labels or words.vocabulary is not None:
            return self._scores(points, words)
        label, confidence = label.take(row), confidence.take(row)
        if words.queried is None:
            return Labelled(label, confidence)
        return Labelled(label, confidence, self._scores(points, words._replace(labels=False)).matches)
