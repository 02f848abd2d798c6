"""Regular voxel grids, where the camera stands in them, and its rays through them."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry import transforms
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import Array, RigidTransform, TransformError, constant_like, floating
from scene_completion_ros.untrusted_files import JsonObject, read_yaml

MOST_VOXELS = 2**28  # of a grid; a state for each of them takes a quarter of a gigabyte, completing an image several
FARTHEST = 1e7  # metres along an axis from the origin of a grid's frame to the grid, farther than any map goes
EDGES = 1e-4, 1e4  # smallest and largest edge of a voxel, metres
_GRID_KEYS = ("origin", "voxel_size", "shape", "grid_from_camera", "frame")


@dataclass(frozen=True)
class VoxelGrid:
    """A box of cubic voxels; by convention its frame has x forward, y left, z up.

    Raises GridError where a number is missing, not finite or not positive, or there are more voxels than `MOST_VOXELS`.
    """

    origin: tuple[float, float, float]  # lower corner of voxel (0, 0, 0) in the grid frame, metres
    voxel_size: float  # edge of a voxel, metres
    shape: tuple[int, int, int]  # voxels along x, y, z
    frame: str = "camera_forward"

    def __post_init__(self) -> None:
        origin, shape = tuple(self.origin), tuple(self.shape)
        if len(origin) != 3 or not all(abs(value) <= FARTHEST for value in origin):
            what = f"{list(origin)} is not three numbers within ±{FARTHEST:g}"
            raise GridError(what, where="origin", cure="Give x, y, z in metres")
        smallest, largest = EDGES
        if not smallest <= self.voxel_size <= largest:
            what = f"{self.voxel_size} is not a length from {smallest:g} to {largest:g} m"
            raise GridError(what, where="voxel_size", cure="Give metres")
        if len(shape) != 3 or not all(math.isfinite(size) and int(size) == size > 0 for size in shape):
            what = f"{list(shape)} is not three positive whole numbers"
            raise GridError(what, where="shape", cure="Give voxels along x, y, z")
        if math.prod(map(int, shape)) > MOST_VOXELS:
            what = f"{'x'.join(f'{size:.0f}' for size in shape)} are more than {MOST_VOXELS:,} voxels"
            raise GridError(what, where="shape", cure="Take larger voxels, or a smaller part of the space")
        object.__setattr__(self, "origin", tuple(float(value) for value in origin))
        object.__setattr__(self, "voxel_size", float(self.voxel_size))
        object.__setattr__(self, "shape", tuple(int(size) for size in shape))

    def axis_centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the voxel centres along x [X], y [Y] and z [Z] in the grid frame, metres."""
        x, y, z = (
            start + (np.arange(size, dtype=np.float64) + 0.5) * self.voxel_size
            for start, size in zip(self.origin, self.shape, strict=True)
        )
        return x, y, z

    def centres(self) -> NDArray[np.float32]:
        """Return the centres of all voxels in the grid frame, float32 [X, Y, Z, 3], metres."""
        axes = [axis.astype(np.float32) for axis in self.axis_centres()]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)

    def index_of(self, points: Array) -> tuple[Array, Array]:
        """Return the voxels that points lie in. `points`: points [..., 3] in the grid frame, metres.

        Returns indices int64 [..., 3] and whether the point lies in the grid [...] (bool). Indices of points outside
        are clamped to one voxel beyond the grid; those of non-finite points are -1.
        """
        xp, points = floating(points)
        steps = xp.floor((points - constant_like(list(self.origin), points)) / self.voxel_size)
        steps = xp.where(xp.isfinite(steps), steps, -xp.ones_like(steps))
        size = constant_like([float(size) for size in self.shape], points)
        steps = xp.minimum(xp.maximum(steps, -xp.ones_like(steps)), size)
        return xp.astype(steps, xp.int64), xp.all((steps >= 0) & (steps < size), axis=-1)

    def cropped(self, range_m: float) -> tuple[slice, slice, slice]:
        """The part within a range, as SSCBench has it for 12.8, 25.6 and 51.2 m: slices of an array [X, Y, Z].

        Raises GridError where the range is no whole number of voxels, larger than the grid, or cannot be centred.
        `range_m`: edge of the square part in metres: that much ahead, half of it to each side, the full height.
        """
        count = round(range_m / self.voxel_size) if math.isfinite(range_m) else 0
        if count <= 0 or abs(count * self.voxel_size - range_m) > 1e-6 * self.voxel_size * max(count, 1):
            what = f"range {range_m} m is no whole number of {self.voxel_size} m voxels"
            raise GridError(what, cure="Choose another range")
        spare = self.shape[1] - count
        if count > self.shape[0] or spare < 0 or spare % 2:
            what = f"a square of {count} voxels does not fit centrally into a grid of {self.shape[0]}x{self.shape[1]}"
            raise GridError(what, cure="Choose a range within the grid that leaves equally many voxels on both sides")
        first = spare // 2
        return slice(0, count), slice(first, first + count), slice(0, self.shape[2])


# Rooms: 6.4 m ahead of the camera and 3.2 m to each side, from below the floor to 3 m above it. The floor lies in the
# middle of its voxels: on their border, rounding would say in which.
ROOM_GRID = VoxelGrid((0.0, -3.2, -0.225), 0.05, (128, 128, 64))
# 51.2 m ahead, 25.6 m to each side, from 2.2 m below the camera to 4.2 m above it.
DEFAULT_GRID = VoxelGrid((0.0, -25.6, -2.2), 0.2, (256, 256, 32), "camera_forward")

# The camera stands at the origin of the default grid and looks along its x axis.
DEFAULT_GRID_FROM_CAMERA = transforms.OPTICAL_FROM_FORWARD.inverse()


def measure_of(grid: VoxelGrid) -> float:
    """Lengths of a world with such voxels over those of a street: rooms have smaller ones."""
    return min(1.0, grid.voxel_size / DEFAULT_GRID.voxel_size)


def grid_of(fields: JsonObject) -> VoxelGrid:
    """The grid that an object of a file describes: `origin`, `voxel_size`, `shape`, and maybe its `frame`."""
    origin, size, shape = fields.numbers("origin", 3), fields.number("voxel_size"), fields.integers("shape", 3)
    frame = fields.text("frame") if "frame" in fields.values else DEFAULT_GRID.frame
    try:
        return VoxelGrid(origin, size, shape, frame)  # type: ignore[arg-type]  # three each
    except GridError as error:
        raise fields.error(error.where, error.what) from error


def placed_grid_of(fields: JsonObject) -> tuple[VoxelGrid, RigidTransform]:
    """The grid of an object, see `grid_of`, and the pose of the camera in it, `grid_from_camera` row by row."""
    grid, pose = grid_of(fields), np.reshape(fields.numbers("grid_from_camera", 16), (4, 4))
    try:
        return grid, RigidTransform.from_matrix(pose)
    except TransformError as error:
        raise fields.error("grid_from_camera", error.what, error.cure) from error


def read_grid(path: str | Path) -> tuple[VoxelGrid, RigidTransform]:
    """Read a voxel grid and the camera's pose in it from a YAML file. Returns the grid and `grid_from_camera`.

    Raises GridError where the file is missing or no YAML mapping, a key is missing, unknown or malformed. `path`: file
    with `origin` (3 numbers), `voxel_size`, `shape` (3), `grid_from_camera` and optionally `frame`. The pose has 16
    numbers row by row, or four rows of four; the camera is in optical axes.
    """
    cure = f"Write the keys {', '.join(_GRID_KEYS[:4])}"
    document = read_yaml(path, GridError, cure=cure, kind=dict)
    if isinstance(rows := document.get("grid_from_camera"), list) and all(isinstance(row, list) for row in rows):
        document["grid_from_camera"] = [number for row in rows for number in row]
    fields = JsonObject(document, path, kind=GridError, cure=cure)
    fields.only(_GRID_KEYS)
    return placed_grid_of(fields)


# The rays of the march are pixels of about this focal length, or those of the network's image where it is smaller yet.
# At 36 m neighbours are a voxel of 0.2 m apart. What counts as seen depends on them.
RAY_FOCAL = 180.0


def ray_camera(canonical: Camera) -> Camera:
    """The camera whose pixels are marched along, for a canonical one."""
    stride = max(1, round(canonical.fx / RAY_FOCAL))
    return canonical.resized(canonical.width // stride, canonical.height // stride)


@dataclass(frozen=True, eq=False)
class GridRays:
    """Rays of a camera in voxel coordinates of a grid, where a step of one voxel edge has length 1."""

    origin: NDArray[np.float64]  # camera centre [3]; voxel (i, j, k) is the box from (i, j, k) to (i + 1, j + 1, k + 1)
    direction: NDArray[np.float64]  # unit vectors [R, 3]
    cosine: NDArray[np.float64]  # [R], z-depth of a point = its distance times this
    first: NDArray[np.int32]  # [R] int32, first step inside the grid
    stop: NDArray[np.int32]  # [R] int32, one after the last step inside; equal to ``first`` for rays that miss
    leave: NDArray[np.float64]  # [R], distance at which the ray leaves, metres


def grid_rays(grid: VoxelGrid, camera_from_grid: RigidTransform, camera: Camera) -> GridRays:
    """Rays through the pixel centres of a camera, row by row, in the voxel coordinates of a grid."""
    grid_from_camera = camera_from_grid.inverse()
    rays = camera.unproject(camera.pixel_centres()).reshape(-1, 3)
    length = np.linalg.norm(rays, axis=1)
    direction = (rays / length[:, None]) @ grid_from_camera.rotation.T
    direction = np.where(np.isfinite(direction), direction, 0.0)  # pixels that a fisheye lens does not see
    origin = (grid_from_camera.translation - np.asarray(grid.origin)) / grid.voxel_size
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low = (0.0 - origin) / direction
        to_high = (np.asarray(grid.shape) - origin) / direction
    enter = np.fmax.reduce(np.fmin(to_low, to_high), axis=1)
    leave = np.fmin.reduce(np.fmax(to_low, to_high), axis=1)
    parallel_outside = np.any((direction == 0.0) & ((origin < 0.0) | (origin >= np.asarray(grid.shape))), axis=1)
    hit = (leave > np.maximum(enter, 0.0)) & ~parallel_outside & np.any(direction != 0.0, axis=1)
    first = np.where(hit, np.ceil(np.maximum(enter, 0.0) - 0.5), 0.0)
    stop = np.where(hit, np.maximum(np.ceil(leave - 0.5), first), first)
    steps = np.maximum(first, 0.0).astype(np.int32), stop.astype(np.int32)
    return GridRays(origin, direction, 1.0 / length, *steps, np.where(hit, leave, np.nan) * grid.voxel_size)
