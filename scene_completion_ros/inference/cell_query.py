"""Cells look up the image, and voxels follow from their pixels and cells: grid sampling before and behind the network.

Where the voxels of a grid lie before the camera is computed once (`CellVoxels`). The volume is levelled anew for each
image (`CameraPlace`): kernels find for themselves where its cells look at the image. A voxel is what its pixel sees,
with a probability that follows from depth and its deviation, or lies before or behind that; for the latter two the
network predicts the occupancy. The ground is a surface of its own: a cell of 0.2 m cannot hold five centimetres.
"""

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Integers, Mask, Reals
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.cell_kernels import classify_cells, find_cells, find_lowest, look_up, query_voxels
from scene_completion_ros.inference.cells import CellVolume, volume_pose
from scene_completion_ros.inference.field_kernels import label_kernel
from scene_completion_ros.inference.ground_pixels import seen_ground
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.label_query import NO_WORDS, Labelled, Units, Words, WordScores
from scene_completion_ros.inference.query_kernel import view_of
from scene_completion_ros.jit import aligned_empty
from scene_completion_ros.voxels.occupancy_kernel import axis_indices

_AT_CENTRE = 1e-3  # share of a voxel: float32 places of centres are not exact
_BEYOND = 1.1  # of the depth at which a volume ends: grids are turned and shifted a little


class Pixels(NamedTuple):
    """What the pixels of an image show, at half its size."""

    surfaces: Floats  # float32 [h, w, 2], inverse depth code and deviation of the logarithm of depth
    classes: Floats  # float32 [h, w, K + 1], probabilities of the classes and of the sky
    context: Floats  # float32 [h, w, C], what else cells look up
    plane: Floats | None = None  # float32 [3, 2], `RoadPlane.state` and its deviations; None where it is not seen


class PredictedCells(NamedTuple):
    """What a student's network predicts of cells, x y z, and columns of them, x y."""

    hidden: Floats  # float32 [x y z, 8], logits of voxels in cells, where pixels see something before them
    others: Floats  # float32 [x y z, `CellVolume.of_cell`]
    ground: Floats  # float32 [x y, 2], height of the ground in the grid and standard deviation, metres
    # float32 [N, Z + 1], see `CellVolume.prior_shape`: of coarse columns, the share w that a prior has in the
    # probabilities of what does not stand on the ground, as the last number, and before it w times the prior by height:
    # that of the Z voxels of the grid, were the ground at the volume's level. Empty without a prior.
    prior: Floats = np.zeros((0, 1), np.float32)


class CameraPlace(NamedTuple):
    """Where a camera stands in the volume of a student, for one image."""

    volume_from_camera: RigidTransform  # see `volume_pose`
    known: bool  # whether it is known: the network learns so
    # As kernels take them, rows of [3, 4]: voxel coordinates of the volume from the camera, and the other way round.
    pose: tuple[np.float32, ...]
    camera: tuple[np.float32, ...]


class CellSampler:
    """Samples an image for the cells of a student's volume, and these for voxels, wherever the camera stands in it.

    `spec`: point code of the depths; `height_above_ground`: of the student.
    """

    def __init__(self, volume: CellVolume, canonical: Camera, spec: PointCodeSpec, height_above_ground: float) -> None:
        self.volume, self.spec, self._height = volume, spec, height_above_ground
        height, width = self.map_size = canonical.height // 2, canonical.width // 2
        # Column and row of the map by x / z and y / z of a point; nearer ones are projected from the depth that
        # follows; the last column and row.
        half = canonical.resized(width, height)
        view = half.fx, half.cx, half.fy, half.cy, spec.minimum_depth, width - 1, height - 1
        self.view, self._camera = tuple(map(np.float32, view)), half
        (count_x, count_y, heights) = volume.cells
        # What columns are given, float32 [x y, `CellVolume.of_column`]: all but the place follows from each image.
        self.columns = np.zeros((count_x * count_y, volume.of_column), np.float32)
        across = (2.0 * (np.arange(count) + 0.5) / count - 1.0 for count in (count_x, count_y))
        self.columns[:, heights : heights + 2] = np.stack(np.meshgrid(*across, indexing="ij"), -1).reshape(-1, 2)

    @cached_property
    def _local(self) -> Floats:
        """What cells are given; a GPU has its own."""
        return aligned_empty(math.prod(self.volume.cells), self.volume.looked_up)

    def place(self, upright_from_camera: RigidTransform | None) -> CameraPlace:
        """The place of a camera; see `Standing`."""
        pose, to_voxels = volume_pose(upright_from_camera, self._height), voxels_from_metres(self.volume.grid)
        matrices = to_voxels @ pose.matrix, pose.inverse().matrix @ np.linalg.inv(to_voxels)
        return CameraPlace(pose, upright_from_camera is not None, *map(kernel_pose, matrices))

    def look_up(self, surfaces: Floats, context: Floats, place: CameraPlace) -> tuple[Floats, Floats]:
        """What cells [x y z, L] and columns are given; overwritten by the next call.

        `surfaces`: logarithm of depth and its deviation, of the pixels of an image at half its size, float32 [h, w, 2];
        `context`: what the encoder gives of these, float32 [h, w, C].
        """
        volume, grid, looking = self.volume, self.volume.grid, (self.view, place.camera)
        measure, base, size = map(np.float32, (volume.measure, grid.origin[2] - volume.level, grid.voxel_size))
        flat, context = surfaces.reshape(-1, 2), context.reshape(-1, volume.context)
        look_up(flat, context, *looking, volume.cells, measure, self.columns, self._local)
        if not volume.on_ground:
            find_lowest(flat, *looking, grid.shape, volume.low, base, size, measure, self.columns[:, -1])
        self.columns[:, volume.cells[2] + 2] = place.known
        return self._local, self.columns

    def seen_ground(self, surfaces: Floats, classes: Floats, place: CameraPlace) -> Floats | None:
        """What columns are given of the ground, see `seen_ground`; None of students that are given nothing of it.

        `surfaces`: as of `look_up`; `classes`: see `Pixels`.
        """
        if not self.volume.on_ground:
            return None
        probability = classes[..., self.volume.on_ground].sum(axis=-1)
        return seen_ground(surfaces, probability, self._camera, self.volume, place.volume_from_camera.matrix)

    def query(
        self,
        surfaces: Floats,  # as `look_up` takes them
        predicted: PredictedCells,
        place: CameraPlace,
        points: Floats,  # float32 [3, N], in the camera's optical frame, metres
        target: NDArray[np.int32],  # [N], where each result is written
        out: Floats,  # float32 [M], flat
        length: float = 0.0,  # metres; alpha = 1 - exp(-sigma length) is written where it is positive
        stands: Mask | None = None,  # bool [M], flat: what lies `STANDS_M` above the predicted ground
        between: bool = True,  # whether points lie between the centres of the volume's voxels, not at these
    ) -> None:
        """Writes density per metre, or opacity over a length, to ``out[target]``."""
        grid = self.volume.grid
        of_grid = (np.float32(value) for value in (grid.origin[2], grid.voxel_size, self.volume.measure, length))
        query_voxels(
            *(surfaces.reshape(-1, 2), *predicted, grid.shape, points, self.view, place.pose, *of_grid),
            *(np.float32(grid.origin[2] - self.volume.level), max(self.volume.prior, 1)),
            *(between, target, out, np.empty(0, np.bool_) if stands is None else stands),
        )

    def cells_of(self, points: Reals, pose: tuple[np.float32, ...]) -> NDArray[np.int32]:
        """Numbers [N] of the cells that points [N, 3] lie in; outside, of the nearest.

        `pose`: voxel coordinates of the volume from these points, see `CameraPlace`.
        """
        found = np.empty(len(points), np.int32)
        find_cells(points, pose, self.volume.grid.shape, found)
        return found

    def classes(
        self, others: Floats, of_pixels: Floats, place: CameraPlace, chosen: NDArray[np.int32]
    ) -> tuple[Floats, Bytes, Floats]:
        """Of cells [N]: probabilities of the classes [N, K], and the likeliest class [N] with its probability [N].

        `others`: see `PredictedCells`; `of_pixels`: probabilities of the classes of pixels, float32 [h, w, K + 1].
        """
        count, classes = len(chosen), self.volume.classes
        found = np.empty((count, classes), np.float32), np.empty(count, np.uint8), np.empty(count, np.float32)
        flat = of_pixels.reshape(-1, classes + 1)
        looking = self.view, place.camera, self.volume.cells
        classify_cells(others, self.volume.of_cell - classes - 1, flat, *looking, chosen, *found)
        return found


def voxels_from_metres(grid: VoxelGrid) -> Doubles:
    """The matrix [4, 4] that takes points of a grid, metres, to its voxel coordinates."""
    matrix = np.diag([1.0 / grid.voxel_size] * 3 + [1.0])
    matrix[:3, 3] = -np.asarray(grid.origin) / grid.voxel_size
    return matrix


def kernel_pose(matrix: Doubles) -> tuple[np.float32, ...]:
    """The first three rows of a matrix [4, 4] as kernels take them: numbers, not arrays."""
    return tuple(matrix[:3].astype(np.float32).reshape(-1))


class CellVoxels:
    """The voxels of a grid, of a student's cells."""

    def __init__(
        self,
        sampler: CellSampler,
        spec: PointCodeSpec,
        canonical: Camera,
        grid: VoxelGrid,
        camera_from_grid: RigidTransform,  # its pose; any rigid transform
        *,
        coverage: Mask | None = None,  # see `view_of`
    ) -> None:
        volume = sampler.volume.grid
        self.sampler, self.grid = sampler, grid
        self._camera_from_voxels = camera_from_grid.matrix @ np.linalg.inv(voxels_from_metres(grid))
        self.far = min(spec.far, _BEYOND * (volume.origin[0] + volume.voxel_size * (volume.shape[0] - 0.5)))
        prepared = view_of(
            canonical, grid, camera_from_grid, self.far, coverage, lambda *part: (part[0].astype(np.float32).T, part[1])
        )
        self.in_view, self.too_far, parts = prepared
        points, targets = zip(*parts, strict=True)
        # Of voxels in view: points [3, N] in the camera's optical frame, metres, and their numbers [N].
        self.points, self.target = np.concatenate(points, axis=1), np.concatenate(targets)
        classes = sampler.volume.classes
        itself = np.eye(classes, dtype=np.float32), np.zeros(classes, np.float32)
        self._scores = WordScores(label_kernel(0, classes, computed=True), *itself)

    def pose(self, place: CameraPlace) -> tuple[Doubles, bool]:
        """Voxel coordinates of the volume from those of the grid [4, 4]; and whether voxels lie between its centres."""
        pose = voxels_from_metres(self.sampler.volume.grid) @ place.volume_from_camera.matrix @ self._camera_from_voxels
        shifted = np.eye(4)  # by whole voxels
        shifted[:, 3] = np.rint(pose[:, 3])
        return pose, bool((np.abs(pose - shifted) @ (*self.grid.shape, 1.0)).max() > _AT_CENTRE)

    def opacity(self, surfaces: Floats, predicted: PredictedCells, place: CameraPlace) -> tuple[Floats, Mask]:
        """Opacity over an edge of every voxel, 0 outside the view, and what stands on the ground, both [X, Y, Z].

        See `CellSampler.query`.
        """
        out, stands = np.zeros(self.grid.shape, np.float32), np.zeros(self.grid.shape, np.bool_)
        flat = out.reshape(-1), self.grid.voxel_size, stands.reshape(-1)
        self.sampler.query(surfaces, predicted, place, self.points, self.target, *flat, self.pose(place)[1])
        return out, stands

    def labels(
        self, others: Floats, of_pixels: Floats, place: CameraPlace, targets: Integers, words: Words = NO_WORDS
    ) -> Labelled:
        """Labels and matches of voxels in view [N], rising flat indices: of their cells; see `CellSampler.classes`."""
        if not words.labels and words.queried is None:
            return Labelled(np.zeros(len(targets), np.uint8), np.ones(len(targets), np.float32))
        voxels = axis_indices(targets, self.grid.shape).astype(np.float32) + np.float32(0.5)
        cell = self.sampler.cells_of(voxels, kernel_pose(self.pose(place)[0])).astype(np.intp)  # as NumPy wants indices
        wanted = np.zeros(len(others), np.bool_)  # each cell once: it has several voxels
        wanted[cell] = True
        chosen = np.flatnonzero(wanted).astype(np.int32)
        number = np.empty(len(others), np.int32)
        number[chosen] = np.arange(len(chosen), dtype=np.int32)
        row = number.take(cell)
        units, label, confidence = self.sampler.classes(others, of_pixels, place, chosen)
        read = units, 0, *(np.zeros((2, 0), np.float32) for _ in range(3))
        taps = np.zeros(0, np.int32), np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32)
        points = Units(read, (row, np.arange(len(row), dtype=np.int32), *taps))
        if not words.labels or words.vocabulary is not None:
            return self._scores(points, words)
        label, confidence = label.take(row), confidence.take(row)
        if words.queried is None:
            return Labelled(label, confidence)
        return Labelled(label, confidence, self._scores(points, words._replace(labels=False)).matches)
