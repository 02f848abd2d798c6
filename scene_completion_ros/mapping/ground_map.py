"""Completed voxels as a two-dimensional occupancy map of the ground.

The map is aligned with an upright frame: z up. Its plane z = 0 is the ground, unless a student predicts its height.
The voxel grid may have any turn or tilt in it. Readers such as Nav2's StaticLayer ignore the orientation of a map. A
rotated grid is resampled twice. Obstacles are thrown forward, every occupied voxel's centre into the cell it lies over,
so that none is lost between cells. Free space is looked up backward, from points over every cell into the voxels they
lie in, so that no cell stays empty. Without rotation both are the same, and a cell is a column of voxels.

The whole voxel grid as one byte a voxel, and the description that a reader needs to decode it.

A byte holds the state and, of an occupied voxel, the class:

    0 unobserved    1 seen free    2 inferred free    3 + 2 * label surface    4 + 2 * label completed

so that 1 alone may clear, everything from 3 on is occupied, and of a grid without classes the byte is the `VoxelState`.
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError, SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.untrusted_files import shown
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

UNKNOWN, FREE, OCCUPIED = -1, 0, 100  # values of nav_msgs/OccupancyGrid

AUTO = "auto"
# What robots drive on: never an obstacle, unless other classes are named.
GROUND_CLASSES = ("road", "parking", "sidewalk", "terrain", "other-ground", "floor")

_OBSTACLE = 100  # plus the percent, 1 to 100: larger than all states
_ROUNDING = 1e-6  # part of a voxel edge
_NO_GROUND_M = 0.5  # so far from a point of it, the ground is taken for level


@dataclass(frozen=True, eq=False)
class GroundMap:
    """An occupancy map as nav_msgs/OccupancyGrid holds it."""

    origin: tuple[float, float]  # lower corner (x, y) of cell [0, 0] in the upright frame, metres
    resolution: float  # edge of a cell, metres
    # int8 [H, W], rows along y, columns along x of the upright frame; -1 unknown, 0 free, 1 to 100 occupied.
    cells: NDArray[np.int8]


def ignored_labels(ignored: str, class_names: tuple[str, ...], *, where: str = "ignored classes") -> list[int]:
    """Labels of the classes that are no obstacles. Raises SceneCompletionError where there is no class of such a name.

    `ignored`: names of classes with commas between them; ``auto`` for those of `GROUND_CLASSES` that there are;
    `class_names`: all names, by label; `where`: what to call the source of the names in an error.
    """
    names = ignored_names(ignored)
    unknown = [name for name in names if name not in class_names]
    if unknown and ignored.strip() != AUTO:
        cure = f"Choose among {', '.join(class_names)}, with commas between them, write {AUTO}, or nothing"
        raise SceneCompletionError(
            f"no class has the name {', '.join(map(shown, unknown[:3]))}", where=where, cure=cure
        )
    return [label for label, name in enumerate(class_names) if name in names]


def ignored_names(ignored: str) -> tuple[str, ...]:
    """Names of classes that are no obstacles, whether there are such classes or not; see `ignored_labels`."""
    if ignored.strip() == AUTO:
        return GROUND_CLASSES
    return tuple(name.strip() for name in ignored.split(",") if name.strip())


class GroundProjection:
    """Projects voxels within a band of heights to the ground; all that depends on the pose alone is computed once.

    Raises GridError where no voxel of the grid lies in the band. `upright_from_grid`: its pose in the upright frame;
    `lowest`: lower end of the band above the ground, metres. A voxel belongs to the band if its centre does. `highest`:
    upper end of the band, metres.
    """

    def __init__(self, grid: VoxelGrid, upright_from_grid: RigidTransform, lowest: float, highest: float) -> None:
        self.grid, self.upright_from_grid = grid, upright_from_grid
        self.lowest, self.highest = lowest, highest
        size = grid.voxel_size
        ends = list(zip(grid.origin, np.asarray(grid.origin) + np.asarray(grid.shape) * size, strict=True))
        corners = upright_from_grid.apply(np.array(list(itertools.product(*ends)), dtype=np.float64))
        low, high = corners.min(axis=0), corners.max(axis=0)
        counts = np.ceil((high - low) / size - _ROUNDING).astype(int)
        self._axes = tuple(low[axis] + (np.arange(counts[axis]) + 0.5) * size for axis in range(3))
        if not self._in_band(self._axes[2]).any():
            raise GridError(
                f"no voxel lies {lowest} to {highest} m above the ground: the grid reaches from {low[2]:.2f} to "
                f"{high[2]:.2f} m, in steps of {size} m",
                where="height band",
                cure="Check the pose of the camera above the ground, and that the band is at least one voxel high",
            )
        self.origin = (float(low[0]), float(low[1]))
        self._looked_up = self._voxels_at(np.zeros((counts[1], counts[0])))

    def __call__(
        self,
        voxels: SemanticVoxels,  # completed voxels on this projection's grid
        *,
        # Labels of classes that are no obstacles (see `ignored_labels`). Where such a voxel was seen, it counts as seen
        # free; where it was completed, as inferred free, which makes no cell free.
        ignored: Iterable[int] = (),
        # Points [N, 3] of the ground in the upright frame, half a metre apart or less; where there are none it is the
        # plane z = 0.
        ground: NDArray[np.floating] | None = None,
    ) -> GroundMap:
        """The map of one image.

        A cell is occupied where a voxel of the band over it is, seen or completed. It is free where all of the band was
        seen free, and unknown everywhere else.
        """
        assert voxels.grid == self.grid
        passable = np.isin(voxels.label, np.fromiter(ignored, dtype=np.uint8))
        flat = np.ravel_multi_index(tuple(voxels.index.T), self.grid.shape)
        # One more element stands for what lies outside of the grid.
        dense = np.append(voxels.state, np.uint8(VoxelState.UNOBSERVED))
        free = np.where(dense[flat] == VoxelState.SURFACE, VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED)
        dense[flat] = np.where(passable, free, _OBSTACLE + OCCUPIED)

        height = None if ground is None else self._heights(ground)
        band = dense[self._looked_up if height is None else self._voxels_at(height)]
        is_free = band == VoxelState.FREE_SEEN
        largest = band.max(axis=0)
        self._throw(voxels.index[~passable], dense[flat[~passable]], largest, height)
        cells = np.where(is_free.all(axis=0), FREE, UNKNOWN)
        cells = np.where(largest > _OBSTACLE, largest.astype(np.int16) - _OBSTACLE, cells)
        return GroundMap(self.origin, self.grid.voxel_size, cells.astype(np.int8))

    def _in_band(self, height: NDArray[np.float64]) -> NDArray[np.bool_]:
        slack = _ROUNDING * self.grid.voxel_size
        return (self.lowest - slack <= height) & (height <= self.highest + slack)

    def _heights(self, ground: NDArray[np.floating]) -> NDArray[np.float64]:
        """Height of the ground under the cells [H, W]: that of the nearest point, by cells, and 0 far from any."""
        found = np.zeros((len(self._axes[1]), len(self._axes[0])))
        column, row = np.floor((ground[:, :2] - self.origin) / self.grid.voxel_size).astype(int).T
        reach = int(_NO_GROUND_M / self.grid.voxel_size + _ROUNDING)
        around = sorted(
            itertools.product(range(-reach, reach + 1), repeat=2), key=lambda step: -(step[0] ** 2 + step[1] ** 2)
        )
        for down, aside in around:  # the nearest point is written last
            if np.hypot(down, aside) > reach:
                continue
            at = row + down, column + aside
            inside = (at[0] >= 0) & (at[0] < found.shape[0]) & (at[1] >= 0) & (at[1] < found.shape[1])
            found[at[0][inside], at[1][inside]] = ground[inside, 2]
        return found

    def _voxels_at(self, ground: NDArray[np.float64]) -> NDArray[np.intp]:
        """Flat indices of the voxels that points over the cells lie in, [levels, H, W]; one beyond for outside.

        `ground`: height of the ground [H, W].
        """
        x, y, z = self._axes
        above = z[self._in_band(z)][:, None, None] + ground
        points = np.stack(np.broadcast_arrays(x, y[:, None], above), axis=-1)
        index, inside = self.grid.index_of(self.upright_from_grid.inverse().apply(points))
        flat = np.ravel_multi_index(tuple(np.moveaxis(np.where(inside[..., None], index, 0), -1, 0)), self.grid.shape)
        return np.where(inside, flat, np.prod(self.grid.shape)).astype(np.intp)

    def _throw(
        self,
        index: NDArray[np.int32],
        value: NDArray[np.uint8],
        onto: NDArray[np.uint8],
        ground: NDArray[np.float64] | None,
    ) -> None:
        """Raise the cells [H, W] under voxels [N, 3] of the band to the values [N] of these; ground as `_heights`."""
        turn = self.upright_from_grid.rotation * self.grid.voxel_size
        first = self.upright_from_grid.apply(np.asarray(self.grid.origin) + 0.5 * self.grid.voxel_size)
        places = (index @ turn[:2].T + (first[:2] - self.origin)) / self.grid.voxel_size
        column, row = (places[:, axis].astype(int).clip(0, onto.shape[1 - axis] - 1) for axis in range(2))
        cell = row * onto.shape[1] + column
        above = index @ turn[2] + first[2] - (0.0 if ground is None else ground.reshape(-1)[cell])
        in_band = self._in_band(above)
        np.maximum.at(onto.reshape(-1), cell[in_band], value[in_band])


LAYOUT = "data[(x * shape[1] + y) * shape[2] + z]"
VALUES = {
    "0": "unobserved",
    "1": "free, seen",
    "2": "free, inferred",
    "3 + 2 * label": "occupied, surface",
    "4 + 2 * label": "occupied, completed",
}
_LARGEST_LABEL = (255 - VoxelState.COMPLETED) // 2


def voxels_to_bytes(voxels: SemanticVoxels) -> NDArray[np.uint8]:
    """One byte a voxel, uint8 [X, Y, Z], z fastest. Raises GridError for more classes than a byte holds."""
    if len(voxels.class_names) > _LARGEST_LABEL + 1:
        what = f"{len(voxels.class_names)} classes where a byte of the dense grid holds at most {_LARGEST_LABEL + 1}"
        raise GridError(what, where="voxel grid", cure="Read the labels from the point cloud of the voxels")
    dense = voxels.state.copy()
    dense[tuple(voxels.index.T)] += 2 * voxels.label
    return dense


def dense_grid_json(grid: VoxelGrid, grid_from_camera: RigidTransform | None) -> str:
    """How to decode the bytes and where their voxels lie, as JSON.

    Returns ``shape``, ``layout`` and ``values``. ``first_centre`` (metres) and ``steps`` (metres a voxel along x, y and
    z). They give the centre of a voxel as first_centre + x steps[0] + y steps[1] + z steps[2]. It is in the optical
    frame, or, without a pose of the camera, in that of the grid. The grid as its own file has it: ``origin``,
    ``voxel_size``, ``frame``, and, if there is one, ``grid_from_camera``. `grid_from_camera`: pose of the camera's
    optical frame in the grid; None where the bytes are published in the grid's own frame, in which cameras may move.
    """
    camera_from_grid = grid_from_camera.inverse() if grid_from_camera else RigidTransform.identity()
    pose = {"grid_from_camera": (grid_from_camera.matrix.reshape(-1) + 0.0).tolist()} if grid_from_camera else {}
    first = np.asarray(grid.origin) + 0.5 * grid.voxel_size
    # Adding 0 turns the negative zeros of rotations into zeros.
    return json.dumps(
        {
            "shape": list(grid.shape),
            "layout": LAYOUT,
            "values": VALUES,
            "first_centre": (camera_from_grid.apply(first) + 0.0).tolist(),
            "steps": (camera_from_grid.rotation.T * grid.voxel_size + 0.0).tolist(),
            "origin": list(grid.origin),
            "voxel_size": grid.voxel_size,
            "frame": grid.frame,
            **pose,
        }
    )
