"""The march of ``march`` and the classification of voxels, compiled and run in parallel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.calibration import Calibration
from scene_completion_ros.inference.march import SEEN, SPENT, MarchResult, grid_rays
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels.semantic_voxels import VoxelState

BINS = 4096

ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
NEVER, NOTHING = np.float32(np.inf), np.float32(np.nan)
T_SPENT, T_SEEN = np.float32(SPENT), np.float32(SEEN)
SMALLEST_DEPTH = np.float32(1e-6)
FREE_SEEN, FREE_INFERRED = np.uint8(VoxelState.FREE_SEEN), np.uint8(VoxelState.FREE_INFERRED)
SURFACE, COMPLETED = np.uint8(VoxelState.SURFACE), np.uint8(VoxelState.COMPLETED)


class March:
    """Marches the rays of one camera through one grid; the same result as `march.march` up to float32.

    Args:
        grid: The grid.
        camera_from_grid: Its pose.
        camera: The ray camera.
        occupied_from: alpha from which a voxel counts as occupied, `Calibration.occupied_from` of the threshold.

    Attributes:
        rays: `GridRays` as the kernel takes them: origin [3], direction [R, 3], cosine [R], first [R], stop [R] and
            leave [R] (metres), float32 and int32.
    """

    def __init__(
        self, grid: VoxelGrid, camera_from_grid: RigidTransform, camera: Camera, occupied_from: float | np.float32
    ) -> None:
        rays = grid_rays(grid, camera_from_grid, camera)
        self.grid = grid
        self.camera = camera
        self.occupied_from = np.float32(occupied_from)
        self.rays = (
            rays.origin.astype(np.float32),
            rays.direction.astype(np.float32),
            rays.cosine.astype(np.float32),
            rays.first,
            rays.stop,
            rays.leave.astype(np.float32),
        )
        self._kernel = _march_kernel()

    def __call__(self, alpha: NDArray[np.float32]) -> MarchResult:
        """Marches through alpha, float32 [X, Y, Z]."""
        shape = (self.camera.height, self.camera.width)
        out = tuple(np.empty(shape, dtype=np.float32) for _ in range(3))
        step_length = np.float32(self.grid.voxel_size)
        self._kernel(alpha, self.occupied_from, step_length, *self.rays, *(part.reshape(-1) for part in out))
        return MarchResult(*out)


class VoxelClassifier:
    """Probability and state of every voxel; the same result as `Calibration.apply` and `march.states`.

    Args:
        grid: The grid.
        camera_from_grid: Its pose.
        camera: The ray camera of the march, without distortion.
        in_view: bool [X, Y, Z]; everything else stays unobserved, with probability 0.
        calibration: alpha -> probability.
        threshold: Probability from which a voxel counts as occupied.

    Attributes:
        pose: float32 [12], the camera from voxel coordinates: rotation times voxel edge, row by row, and translation.
        camera_voxel: float32 [3], the camera's centre in voxel coordinates.
        knots: float32 [K] alpha, float32 [K] probability, and int32 [BINS] the first interval that an alpha of each bin
            can lie in.
    """

    def __init__(
        self,
        grid: VoxelGrid,
        camera_from_grid: RigidTransform,
        camera: Camera,
        in_view: NDArray[np.bool_],
        calibration: Calibration,
        threshold: float,
    ) -> None:
        self.grid = grid
        self.threshold = threshold
        self._in_view = in_view
        self.pose = np.concatenate(
            [
                camera_from_grid.rotation.reshape(-1) * grid.voxel_size,
                camera_from_grid.apply(np.asarray(grid.origin, dtype=np.float64)),
            ]
        ).astype(np.float32)
        camera_in_grid = camera_from_grid.inverse().translation
        self.camera_voxel = ((camera_in_grid - np.asarray(grid.origin)) / grid.voxel_size).astype(np.float32)
        self._intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy], dtype=np.float32)
        alpha, probability = calibration.knots()
        # The first knot interval that an alpha of each bin can lie in: a search for every voxel would cost more.
        bins = np.searchsorted(alpha, np.arange(BINS) / BINS, side="right") - 1
        interval = np.clip(bins, 0, len(alpha) - 2).astype(np.int32)
        self.knots = (alpha.astype(np.float32), probability.astype(np.float32), interval)
        self._kernel = _classify_kernel()

    def __call__(
        self, alpha: NDArray[np.float32], half_distance: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Probability float32 [X, Y, Z] and state uint8 [X, Y, Z].

        Args:
            alpha: float32 [X, Y, Z].
            half_distance: float32 [h, w] of the march.
        """
        probability = np.zeros(self.grid.shape, dtype=np.float32)
        state = np.zeros(self.grid.shape, dtype=np.uint8)
        self._kernel(
            alpha,
            self._in_view,
            half_distance,
            self.pose,
            self.camera_voxel,
            self._intrinsics,
            np.float32(0.5 * self.grid.voxel_size),
            *self.knots,
            np.float32(self.threshold),
            probability,
            state,
        )
        return probability, state


@inlined
def opacity_at(along: Any, origin: Any, d_x: Any, d_y: Any, d_z: Any, flat: Any, shape: Any) -> Any:
    """Alpha of the voxel in which a ray is at a distance, in voxel edges."""
    # Truncation is the floor inside the grid; the clamps catch rounding at its sides.
    x = min(max(np.int32(origin[0] + along * d_x), 0), shape[0] - 1)
    y = min(max(np.int32(origin[1] + along * d_y), 0), shape[1] - 1)
    z = min(max(np.int32(origin[2] + along * d_z), 0), shape[2] - 1)
    return flat[np.uint32((x * shape[1] + y) * shape[2] + z)]


@functools.cache
def _march_kernel() -> Callable[..., None]:
    @kernel()
    def march_rays(
        alpha: Any,
        occupied_from: Any,
        step_length: Any,
        origin: Any,
        direction: Any,
        cosine: Any,
        first: Any,
        stop: Any,
        leave: Any,
        depth: Any,
        half_distance: Any,
        transmittance: Any,
    ) -> None:
        flat = alpha.reshape(-1)
        for ray in prange(first.size):
            d_x, d_y, d_z = direction[ray, 0], direction[ray, 1], direction[ray, 2]
            left, distance, turned = ONE, ZERO, NEVER
            step = first[ray]
            # T_state is T up to the first occupied voxel and 0 from there on: one loop until it is below 0.5 and one
            # for the rest of the ray, which has less to ask. "Not at least" instead of "less" catches NaN as well.
            while step < stop[ray]:
                along = np.float32(step) + HALF
                opacity = opacity_at(along, origin, d_x, d_y, d_z, flat, alpha.shape)
                distance += left * opacity * along
                left *= ONE - opacity
                step += 1
                if opacity >= occupied_from or not left >= T_SEEN:
                    turned = along * step_length
                    break
            while step < stop[ray] and not left < T_SPENT:
                along = np.float32(step) + HALF
                opacity = opacity_at(along, origin, d_x, d_y, d_z, flat, alpha.shape)
                distance += left * opacity * along
                left *= ONE - opacity
                step += 1
            if left < T_SPENT:
                distance += left * (np.float32(step) - HALF)
                left = ZERO
            distance *= step_length
            if left > ZERO:
                distance += left * leave[ray]
            if first[ray] == stop[ray]:
                distance = NOTHING
            depth[ray] = distance * cosine[ray]
            half_distance[ray] = turned
            transmittance[ray] = left

    return march_rays


@inlined
def projected(x: Any, y: Any, z: Any, pose: Any, intrinsics: Any) -> Any:
    """Column, row, distance and depth of a point in voxel coordinates."""
    p_x = pose[0] * x + pose[1] * y + pose[2] * z + pose[9]
    p_y = pose[3] * x + pose[4] * y + pose[5] * z + pose[10]
    p_z = pose[6] * x + pose[7] * y + pose[8] * z + pose[11]
    inverse = ONE / max(p_z, SMALLEST_DEPTH)
    column = intrinsics[0] * p_x * inverse + intrinsics[2]
    row = intrinsics[1] * p_y * inverse + intrinsics[3]
    return column, row, np.sqrt(p_x * p_x + p_y * p_y + p_z * p_z), p_z


@inlined
def face_reached(x: Any, y: Any, z: Any, pose: Any, intrinsics: Any, half_distance: Any) -> Any:
    """Whether one of the four rays around a point reaches it with T_state >= 0.5."""
    column, row, distance, depth = projected(x, y, z, pose, intrinsics)
    if depth <= ZERO:
        return False
    height, width = half_distance.shape
    c, r = np.int32(np.floor(column)), np.int32(np.floor(row))
    c_0, c_1 = min(max(c, 0), width - 1), min(max(c + 1, 0), width - 1)
    r_0, r_1 = min(max(r, 0), height - 1), min(max(r + 1, 0), height - 1)
    upper = max(half_distance[r_0, c_0], half_distance[r_0, c_1])
    return distance <= max(upper, max(half_distance[r_1, c_0], half_distance[r_1, c_1]))


@inlined
def any_face_reached(x: Any, y: Any, z: Any, camera: Any, pose: Any, intrinsics: Any, half_distance: Any) -> Any:
    """Whether a face turned to the camera is reached; x, y, z are the voxel's centre."""
    for axis in range(3):
        offset = camera[axis] - (x if axis == 0 else (y if axis == 1 else z))
        if abs(offset) <= HALF:
            continue
        shift = HALF if offset > ZERO else -HALF
        f_x = x + shift if axis == 0 else x
        f_y = y + shift if axis == 1 else y
        f_z = z + shift if axis == 2 else z
        if face_reached(f_x, f_y, f_z, pose, intrinsics, half_distance):
            return True
    return False


@functools.cache
def _classify_kernel() -> Callable[..., None]:
    @kernel()
    def classify(
        alpha: Any,
        in_view: Any,
        half_distance: Any,
        pose: Any,
        camera: Any,
        intrinsics: Any,
        tolerance: Any,
        knots: Any,
        values: Any,
        bins: Any,
        threshold: Any,
        probability: Any,
        state: Any,
    ) -> None:
        count_x, count_y, count_z = alpha.shape
        height, width = half_distance.shape
        last_interval = knots.size - 2
        for column_index in prange(count_x * count_y):
            i, j = column_index // count_y, column_index % count_y
            for k in range(count_z):
                if not in_view[i, j, k]:
                    continue
                a = alpha[i, j, k]
                at = bins[min(max(np.int32(a * np.float32(BINS)), 0), BINS - 1)]  # NaN falls into the first bin
                while at < last_interval and a > knots[at + 1]:
                    at += 1
                share = (a - knots[at]) / (knots[at + 1] - knots[at])
                p = values[at] + min(max(share, ZERO), ONE) * (values[at + 1] - values[at])
                probability[i, j, k] = p
                x, y, z = np.float32(i) + HALF, np.float32(j) + HALF, np.float32(k) + HALF
                column, row, distance, _ = projected(x, y, z, pose, intrinsics)
                c = min(max(np.int32(np.floor(column + HALF)), 0), width - 1)
                r = min(max(np.int32(np.floor(row + HALF)), 0), height - 1)
                seen = distance <= half_distance[r, c] + tolerance
                if p >= threshold:
                    if not seen:
                        seen = any_face_reached(x, y, z, camera, pose, intrinsics, half_distance)
                    state[i, j, k] = SURFACE if seen else COMPLETED
                else:
                    state[i, j, k] = FREE_SEEN if seen else FREE_INFERRED

    return classify
