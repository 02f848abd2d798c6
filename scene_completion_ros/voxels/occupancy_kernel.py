"""The compiled twins of ``occupancy``: density and opacity for other kernels, probability and state of every voxel."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels.occupancy import Calibration
from scene_completion_ros.voxels.semantic_voxels import VoxelState

BINS = 4096

ZERO, HALF, ONE, TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
LOG2_E, LN_2 = np.float32(1.0 / np.log(2.0)), np.float32(np.log(2.0))
# Below, exp(x) is no float32 any more.
LOWEST = np.float32(-87.0)
# Taylor series of exp on |r| <= ln(2) / 2: the remainder r^7 / 7! is below 1.3e-7.
E_2, E_3, E_4, E_5, E_6 = (np.float32(1.0 / n) for n in (2.0, 6.0, 24.0, 120.0, 720.0))
# log(1 + y) = 2 artanh(q), q = y / (2 + y) <= 1/3: the remainder 2 q^13 / 13 is below 1e-7.
L_3, L_5, L_7, L_9, L_11 = (np.float32(1.0 / n) for n in (3.0, 5.0, 7.0, 9.0, 11.0))

SMALLEST_DEPTH = np.float32(1e-6)
FREE_SEEN, FREE_INFERRED = np.uint8(VoxelState.FREE_SEEN), np.uint8(VoxelState.FREE_INFERRED)
SURFACE, COMPLETED = np.uint8(VoxelState.SURFACE), np.uint8(VoxelState.COMPLETED)


# The C library's exp and log are called lane by lane, which takes as long as the rest of the query. These are plain
# arithmetic, which the compiler turns into vector code; absolute errors stay below 1e-6.


@inlined
def exp_negative(x: Any) -> Any:
    """exp(x) for x <= 0."""
    x = max(x, LOWEST)
    exponent = np.int32(x * LOG2_E - HALF)  # truncation towards zero rounds to nearest, since x <= 0
    r = x - np.float32(exponent) * LN_2
    mantissa = ONE + r * (ONE + r * (E_2 + r * (E_3 + r * (E_4 + r * (E_5 + r * E_6)))))
    power = np.int32((exponent + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(mantissa * power)


@inlined
def density_of_logit(logit: Any) -> Any:
    """Density ln(1 + exp(x)), per metre."""
    y = exp_negative(-abs(logit))
    q = y / (TWO + y)
    s = q * q
    return max(logit, ZERO) + TWO * q * (ONE + s * (L_3 + s * (L_5 + s * (L_7 + s * (L_9 + s * L_11)))))


@inlined
def opacity(density: Any, length: Any) -> Any:
    """Opacity 1 - exp(-sigma delta) of a density per metre over a length in metres."""
    return ONE - exp_negative(-density * length)


class VoxelClassifier:
    """Probability of every voxel, as `Calibration.apply` has it, and its state, by whether a ray reaches it: T >= 0.5.

    A free voxel is seen if its centre lies no farther than half a voxel beyond the half distance of the nearest ray.
    That is strict, because seen free space clears costmaps. An occupied voxel is also seen if a ray reaches one of its
    faces that are turned to the camera. Rays that graze a road enter it a metre before its voxels' centres.
    """

    def __init__(
        self,
        grid: VoxelGrid,
        camera_from_grid: RigidTransform,
        camera: Camera,  # the ray camera of the march, without distortion
        in_view: NDArray[np.bool_],  # bool [X, Y, Z]; everything else stays unobserved, with probability 0
        calibration: Calibration,  # alpha -> probability
        threshold: float,  # probability from which a voxel counts as occupied
    ) -> None:
        self.grid, self.threshold, self._in_view = grid, threshold, in_view
        # float32 [12], the camera from voxel coordinates: rotation times voxel edge, row by row, and translation.
        self.pose = np.concatenate(
            [
                camera_from_grid.rotation.reshape(-1) * grid.voxel_size,
                camera_from_grid.apply(np.asarray(grid.origin, dtype=np.float64)),
            ]
        ).astype(np.float32)
        camera_in_grid = camera_from_grid.inverse().translation
        # float32 [3], the camera's centre in voxel coordinates.
        self.camera_voxel = ((camera_in_grid - np.asarray(grid.origin)) / grid.voxel_size).astype(np.float32)
        self._intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy], dtype=np.float32)
        alpha, probability = calibration.knots()
        # The first knot interval that an alpha of each bin can lie in: a search for every voxel would cost more.
        bins = np.searchsorted(alpha, np.arange(BINS) / BINS, side="right") - 1
        interval = np.clip(bins, 0, len(alpha) - 2).astype(np.int32)
        # float32 [K] alpha, float32 [K] probability, and int32 [BINS] the first interval that an alpha of each bin can
        # lie in.
        self.knots = (alpha.astype(np.float32), probability.astype(np.float32), interval)
        self._kernel = _classify_kernel()

    def __call__(
        self, alpha: NDArray[np.float32], half_distance: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Probability float32, state uint8 of `alpha`, all [X, Y, Z], by the march's `half_distance` [h, w]."""
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


def axis_indices(flat: NDArray[np.integer], shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """``np.unravel_index`` of ascending `flat` [N] in `shape`: int32 [N, 3], without a division a voxel."""
    index = np.empty((len(flat), 3), dtype=np.int32)
    _index_kernel()(flat, shape[1], shape[2], index)
    return index


@functools.cache
def _index_kernel() -> Callable[..., None]:
    @kernel(parallel=False)
    def fill(flat: Any, count_y: Any, count_z: Any, index: Any) -> None:
        x, y, column = 0, 0, 0  # column: flat index of the voxel (x, y, 0)
        for n in range(len(flat)):
            while flat[n] >= column + count_z:
                column += count_z
                y += 1
                if y == count_y:
                    y = 0
                    x += 1
            index[n, 0], index[n, 1], index[n, 2] = x, y, flat[n] - column

    return fill
