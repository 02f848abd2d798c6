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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Doubles, Reals
from scene_completion_ros.errors import GridError, SceneCompletionError
from scene_completion_ros.evaluation.semantic_classes import GROUND_CLASSES
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.untrusted_files import shown
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

UNKNOWN, FREE, OCCUPIED = -1, 0, 100  # values of nav_msgs/OccupancyGrid
UNOBSERVED, FREE_SEEN, FREE_INFERRED, SURFACE, _ = (np.uint8(state) for state in VoxelState)

AUTO = "auto"  # `GROUND_CLASSES` are no obstacles

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
        self.grid, size = grid, grid.voxel_size
        self._band = lowest - _ROUNDING * size, highest + _ROUNDING * size
        ends = list(zip(grid.origin, np.asarray(grid.origin) + np.asarray(grid.shape) * size, strict=True))
        corners = upright_from_grid.apply(np.array(list(itertools.product(*ends)), dtype=np.float64))
        low, high = corners.min(axis=0), corners.max(axis=0)
        counts = np.ceil((high - low) / size - _ROUNDING).astype(int)
        x, y, z = (low[axis] + (np.arange(counts[axis]) + 0.5) * size for axis in range(3))
        self._axes = x, y, z[(self._band[0] <= z) & (z <= self._band[1])]
        if not len(self._axes[2]):
            raise GridError(
                f"no voxel lies {lowest} to {highest} m above the ground: the grid reaches from {low[2]:.2f} to "
                f"{high[2]:.2f} m, in steps of {size} m",
                where="height band",
                cure="Check the pose of the camera above the ground, and that the band is at least one voxel high",
            )
        self.origin = (float(low[0]), float(low[1]))
        # Affine maps [3, 4]: of points of the upright frame to places in the grid, counted in voxels; of the index of a
        # voxel to its centre's column and row in the map, counted in cells, and height in metres.
        inverse = upright_from_grid.inverse()
        self._voxels_from_upright = np.column_stack([inverse.rotation, inverse.translation - grid.origin]) / size
        first = upright_from_grid.apply(np.asarray(grid.origin) + 0.5 * size) - (*self.origin, 0.0)
        self._map_from_index = np.column_stack([upright_from_grid.rotation * size, first]) / [[size], [size], [1.0]]

    def __call__(
        self, voxels: SemanticVoxels, *, ignored: Iterable[int] = (), ground: Reals | None = None
    ) -> GroundMap:
        """The map of one image.

        A cell is occupied where a voxel of the band over it is, seen or completed. It is free where all of the band was
        seen free, and unknown everywhere else. `voxels`: on this projection's grid; `ignored`: labels of classes that
        are no obstacles (see `ignored_labels`): where such a voxel was seen, it counts as seen free; where it was
        completed, as inferred free, which makes no cell free; `ground`: points [N, 3] of the ground in the upright
        frame, half a metre apart or less; where there are none it is the plane z = 0.
        """
        assert voxels.grid == self.grid
        passable = np.isin(np.arange(256), list(ignored))
        x, y, _ = self._axes
        height = np.zeros((len(y), len(x))) if ground is None else self._heights(ground)
        cells = np.empty(height.shape, np.int8)
        found = np.ascontiguousarray(voxels.index), passable[voxels.label], voxels.state.copy()
        _project(*found, self._voxels_from_upright, self._map_from_index, *self._axes, self._band, height, cells)
        return GroundMap(self.origin, self.grid.voxel_size, cells)

    def _heights(self, ground: Reals) -> Doubles:
        """Height of the ground under the cells [H, W]: that of the nearest point, by cells, and 0 far from any."""
        reach = int(_NO_GROUND_M / self.grid.voxel_size + _ROUNDING)
        found = np.zeros((len(self._axes[1]) + 4 * reach, len(self._axes[0]) + 4 * reach))  # a margin, cut off below
        column, row = np.floor((ground[:, :2] - self.origin) / self.grid.voxel_size).astype(int).T + 2 * reach
        rows, columns = found.shape
        near = (reach <= row) & (row < rows - reach) & (reach <= column) & (column < columns - reach)
        cell, height = (row * columns + column)[near], ground[near, 2]
        around = sorted(
            itertools.product(range(-reach, reach + 1), repeat=2), key=lambda step: -(step[0] ** 2 + step[1] ** 2)
        )
        for down, aside in around:  # the nearest point is written last
            if np.hypot(down, aside) <= reach:
                found.reshape(-1)[cell + (down * columns + aside)] = height
        return found[2 * reach : rows - 2 * reach, 2 * reach : columns - 2 * reach].copy()


@inlined
def placed(a: Any, x: Any, y: Any, z: Any) -> Any:
    """Where an affine map [3, 4] places a point."""
    return (
        a[0, 0] * x + a[0, 1] * y + a[0, 2] * z + a[0, 3],
        a[1, 0] * x + a[1, 1] * y + a[1, 2] * z + a[1, 3],
        a[2, 0] * x + a[2, 1] * y + a[2, 2] * z + a[2, 3],
    )


@kernel(parallel=False)
def _project(  # type: ignore[no-untyped-def] # numba finds the types
    index, passable, state, voxels_from_upright, map_from_index, xs, ys, levels, band, ground, cells
):
    for voxel in range(len(index)):
        if passable[voxel]:
            i, j, k = index[voxel]
            state[i, j, k] = FREE_SEEN if state[i, j, k] == SURFACE else FREE_INFERRED
    for row in range(ys.size):
        for column in range(xs.size):
            x, y, free, occupied = xs[column], ys[row], True, False
            for level in levels:
                i, j, k = placed(voxels_from_upright, x, y, level + ground[row, column])
                inside = 0 <= i < state.shape[0] and 0 <= j < state.shape[1] and 0 <= k < state.shape[2]
                found = state[int(i), int(j), int(k)] if inside else UNOBSERVED
                free &= bool(found == FREE_SEEN)
                occupied |= bool(found >= SURFACE)
            cells[row, column] = OCCUPIED if occupied else FREE if free else UNKNOWN
    for voxel in range(len(index)):
        if passable[voxel]:
            continue
        i, j, k = index[voxel]
        x, y, z = placed(map_from_index, i, j, k)
        at = min(max(int(y), 0), ys.size - 1), min(max(int(x), 0), xs.size - 1)
        if band[0] <= z - ground[at] <= band[1]:
            cells[at] = OCCUPIED


LAYOUT = "data[(x * shape[1] + y) * shape[2] + z]"
VALUES = {
    "0": "unobserved",
    "1": "free, seen",
    "2": "free, inferred",
    "3 + 2 * label": "occupied, surface",
    "4 + 2 * label": "occupied, completed",
}
_LARGEST_LABEL = (255 - VoxelState.COMPLETED) // 2


def voxels_to_bytes(voxels: SemanticVoxels) -> Bytes:
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
    layout = {"shape": list(grid.shape), "layout": LAYOUT, "values": VALUES}
    # Adding 0 turns the negative zeros of rotations into zeros.
    steps = (camera_from_grid.rotation.T * grid.voxel_size + 0.0).tolist()
    centres = {"first_centre": (camera_from_grid.apply(first) + 0.0).tolist(), "steps": steps}
    own = {"origin": list(grid.origin), "voxel_size": grid.voxel_size, "frame": grid.frame}
    return json.dumps({**layout, **centres, **own, **pose})
