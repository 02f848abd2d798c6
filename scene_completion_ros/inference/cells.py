"""Students that complete cells in space: their volume, where it looks at the image, and the scale of what pixels see.

A pixel shows a surface: its depth with a deviation, and a class. Cells of the volume look up the surfaces of their
pixels, a network completes the cells, and each voxel follows from its pixel and its cell (`cell_query`). What is not
learned of this is defined here once, for NumPy and torch (array API), so that training and the robot cannot drift
apart.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scene_completion_ros.arrays import Floats
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid, measure_of
from scene_completion_ros.geometry.road_plane import STATED
from scene_completion_ros.geometry.transforms import RigidTransform

STRIDE = 2  # voxels to a cell of the volume, along every axis
# Scales on which a place is compared with the surface that its pixel sees: its own, that of a car, of a house. As all
# lengths here they are those of a street; smaller voxels bring their own measure.
DISTANCES_M = (0.5, 2.0, 8.0)
GEOMETRY = 3 + 2 * len(DISTANCES_M)  # numbers that say how a cell lies against the surface that its pixel sees
FARTHEST_FROM_LEVEL = 1.5  # of a ground that pixels see, metres
LEAST_CLASS = 1e-3  # probability that a pixel gives any class
CERTAIN = 1e-4  # least probability of a voxel and of its contrary
PRIOR_EDGE = 8  # voxels of the bird's-eye view, along each axis, that have one prior
STANDS_M = 0.35  # metres above the ground from which voxels count as obstacles


class PlaneDoubt(NamedTuple):
    """Standard deviations of roll and pitch of a camera above it, radians, and of the logarithm of its height."""

    stated: tuple[float, float, float]  # of a mounting as it is stated
    usual: tuple[float, float, float]  # of one of which nothing is known, about that of the training
    shown: tuple[float, float, float]  # of what the pixels of one image show


class Ground(NamedTuple):
    """The ground of a world, and the range in which it gives the metric scale."""

    name: str  # of its class
    # Where it is taken to be level with the place of the camera, metres: a grade of a road or a pitch matters little
    # there.
    nearest: float
    farthest: float
    scale_deviation: float  # standard deviation of the scale of depth in unknown surroundings, see `depth_correction`

    @property
    def doubt(self) -> PlaneDoubt:
        """How well its plane is known."""
        return ON_FLOORS if self.name == FLOOR.name else ON_ROADS


@dataclass(frozen=True)
class CellVolume:
    """The volume of a student: what its cells look up, and what is predicted of them."""

    grid: VoxelGrid  # the voxels, `STRIDE` of them to a cell along each axis
    level: float  # height at which the ground is expected, metres in the grid
    ground: Ground
    label: int  # number of the ground's class
    classes: int  # K; pixels know the sky as one more
    context: int  # channels that a cell looks up besides how it lies against the surface
    around: int = 0  # channels that say what is around a cell
    prior: int = 0  # voxels along the edge of columns that have one prior, see `PredictedCells`; 0 without one
    # Numbers of the classes of the ground. Columns are given what their pixels show (`seen_ground`), and the image as a
    # whole shows the plane of the road. Empty: columns are given where rays of pixels meet them, and no plane is seen.
    on_ground: tuple[int, ...] = ()

    @property
    def cells(self) -> tuple[int, int, int]:
        """Number of cells (x, y, z)."""
        x, y, z = (-(-count // STRIDE) for count in self.grid.shape)
        return x, y, z

    @property
    def measure(self) -> float:
        """Lengths in this world over those on a street."""
        return measure_of(self.grid)

    @property
    def low(self) -> int:
        """Voxels of a column, from below, in which a ground may be seen."""
        farthest = FARTHEST_FROM_LEVEL * self.measure
        return min(round((self.level + farthest - self.grid.origin[2]) / self.grid.voxel_size), self.grid.shape[2])

    @property
    def prior_shape(self) -> tuple[int, int]:
        """Columns that have a prior, and numbers of each."""
        x, y, z = self.grid.shape
        return -(-x // self.prior) * -(-y // self.prior), z + 1

    @property
    def looked_up(self) -> int:
        """Numbers L that a cell is given: context of its pixel, and how it lies against the surface there."""
        return self.context + GEOMETRY

    @property
    def of_column(self) -> int:
        """Numbers that a column of cells is given: which cells are in view, its place, the mounting."""
        return self.cells[2] + 3 + (not self.on_ground)

    @property
    def of_cell(self) -> int:
        """Numbers predicted of a cell, besides logits of its voxels where they lie behind what their pixels see.

        Logits of its voxels before that; of a voxel that a pixel sees; of the classes; and how much the logarithm of
        the probability of a class of the cell's pixel adds to these.
        """
        return STRIDE**3 + 1 + self.classes + 1


# Pixels follow a roll of the road by less than a half, so that what they show counts as what is usual. Floors are
# level: what is stated is right there, while furniture hides the floor from pixels.
ON_ROADS = PlaneDoubt(STATED, (math.radians(1.5), math.radians(3.0), 0.3), (math.radians(1.5), math.radians(1.5), 0.15))
ON_FLOORS = PlaneDoubt(
    (math.radians(1.0), math.radians(1.0), 0.03),
    (math.radians(5.0), math.radians(10.0), 0.6),
    (math.radians(4.0), math.radians(4.0), 0.3),
)
ROAD, FLOOR = Ground("road", 2.0, 12.0, 0.1), Ground("floor", 0.3, 6.0, 0.2)


def volume_pose(upright_from_camera: RigidTransform | None, height: float) -> RigidTransform:
    """Pose of a camera in a volume that stands upright below it and looks where the camera looks.

    `upright_from_camera`: its pose in a frame whose z axis points up and begins on the ground; None where it is
    unknown, for which the usual one is taken; `height`: of the volume's origin above the ground, metres: that of the
    cameras of the training.
    """
    if upright_from_camera is None:
        return DEFAULT_GRID_FROM_CAMERA
    return RigidTransform(np.eye(3), np.array([0.0, 0.0, -height])) @ upright_from_camera.levelled()


@dataclass(frozen=True, eq=False)
class GroundSurface:
    """The ground ahead of a camera, on a regular grid that looks where the camera looks."""

    # float32 [x, y, 3], metres, in the camera's optical frame. Rows lead away from the camera, columns from right to
    # left. NaN where the image does not show its place.
    points: Floats
    deviation: Floats  # float32 [x, y], standard deviation of its height, metres


def ground_surface(
    surface: Floats, volume: CellVolume, camera: Camera, volume_from_camera: RigidTransform
) -> GroundSurface:
    """The ground as a student predicts it.

    `surface`: its height in the grid and the standard deviation of that, metres, float32 [x y, 2]; `camera`: the
    canonical one; `volume_from_camera`: see `volume_pose`.
    """
    shape, edge = volume.cells[:2], STRIDE * volume.grid.voxel_size
    height, deviation = surface.T.reshape(2, *shape)
    x, y = (volume.grid.origin[axis] + edge * (np.arange(count) + 0.5) for axis, count in enumerate(shape))
    places = np.stack([*np.meshgrid(x, y, indexing="ij"), height], axis=-1)
    points = volume_from_camera.inverse().apply(places.reshape(-1, 3))
    shown = np.asarray(camera.project(points)[1])
    points = np.where(shown[:, None], points, np.nan).astype(np.float32)
    return GroundSurface(points.reshape(places.shape), deviation.copy())
