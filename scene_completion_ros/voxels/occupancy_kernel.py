"""The compiled twins of ``occupancy``: density and opacity for other kernels, probability and state of every voxel."""

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Floats, Integers, Ints, Mask
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels.occupancy import Calibration, Thresholds
from scene_completion_ros.voxels.semantic_voxels import VoxelState

# Bits of a float32 behind the first six of its mantissa, and the number that those before them make of 1.0.
COARSE, LAST = np.int32(17), 0x3F800000 >> 17

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
TO_OCCUPIED, NOWHERE = SURFACE - FREE_SEEN, np.float32(np.nan)
# Of a block of so many voxels: rows of what is known of them; and of where that is found, and their states.
BLOCK, ROWS, PLACES = 512, 10, 3
X, Y, Z, DISTANCE, SEEN_TO, ALPHA, LOW, WIDTH, VALUE, RISE = range(ROWS)
PIXEL, BIN, STATE = range(PLACES)
LISTED, EIGHT_ONES = 4096, np.uint64(0x0101010101010101)  # voxels of a block that are listed at once; 1 in each byte


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
        in_view: Mask,  # bool [X, Y, Z]; everything else stays unobserved, with probability 0
        calibration: Calibration,  # alpha -> probability
        thresholds: Thresholds,
    ) -> None:
        self.grid, self.thresholds, self._in_view = grid, thresholds, in_view
        self._low = np.zeros(in_view.size, np.bool_)  # no voxel stands on a ground that is not known
        # float32 [12], the camera from voxel coordinates: rotation times voxel edge, row by row, and translation.
        origin = camera_from_grid.apply(np.asarray(grid.origin, dtype=np.float64))
        turned = camera_from_grid.rotation.reshape(-1) * grid.voxel_size
        self.pose = np.concatenate([turned, origin]).astype(np.float32)
        camera_in_grid = camera_from_grid.inverse().translation
        # float32 [3], the camera's centre in voxel coordinates.
        self.camera_voxel = ((camera_in_grid - np.asarray(grid.origin)) / grid.voxel_size).astype(np.float32)
        self._intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy], dtype=np.float32)
        alpha, probability = calibration.knots()
        # float32 [K, 4], first alpha and width, first probability and rise of intervals; nothing is beyond the last.
        low, value = alpha.astype(np.float32), probability.astype(np.float32)
        intervals = np.stack([low[:-1], np.diff(low), value[:-1], np.diff(value)], axis=1)
        self._intervals = np.append(intervals, np.full((1, 4), np.inf, np.float32), axis=0)
        # The first interval of an alpha by its leading bits, which tell small ones apart, and how many more it may be.
        # A search for every voxel would cost more.
        edges = (np.arange(LAST + 2, dtype=np.int32) << COARSE).view(np.float32)
        at = np.clip(np.searchsorted(low, edges, side="right") - 1, 0, len(low) - 2).astype(np.int32)
        self._first, self._steps = at[:-1], int(np.diff(at).max())
        # Alpha and probability, float32 [K], and first intervals, int32 [LAST + 1].
        self.knots = low, value, self._first
        shown = np.logical_or.reduceat(in_view.reshape(-1), np.arange(0, in_view.size, BLOCK))
        self._blocks, self._blank = np.flatnonzero(shown), np.flatnonzero(~shown)  # of voxels, with any in view or none

    def __call__(
        self,
        alpha: Floats,
        half_distance: Floats,
        stands: Mask | None = None,  # bool [X, Y, Z], what stands on the ground; None for nothing
    ) -> tuple[Floats, Bytes]:
        """Probability float32, state uint8 of `alpha`, all [X, Y, Z], by the march's `half_distance` [h, w]."""
        probability, state = np.empty(self.grid.shape, dtype=np.float32), np.empty(self.grid.shape, dtype=np.uint8)
        reach = np.empty((half_distance.shape[0] + 1, half_distance.shape[1] + 1), dtype=np.float32)
        _widen(half_distance, reach)
        scene = (tuple(part) for part in (self.pose, self.camera_voxel, self._intrinsics))  # numbers, not arrays
        _classify(
            *(alpha.reshape(-1), self._in_view.reshape(-1), self._low if stands is None else stands.reshape(-1)),
            *(half_distance, reach),
            *(self._blocks, self._blank, *self.grid.shape[1:], *scene, np.float32(0.5 * self.grid.voxel_size)),
            *(self._intervals, self._first, self._steps, *map(np.float32, self.thresholds)),
            *(probability.reshape(-1), state.reshape(-1)),
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


@kernel(parallel=False)
def _widen(half_distance: Any, reach: Any) -> None:
    """The largest half distance of the four rays around each place between pixels, [h + 1, w + 1]."""
    height, width = half_distance.shape
    for r in range(height + 1):
        upper, lower = half_distance[max(r - 1, 0)], half_distance[min(r, height - 1)]
        for c in range(width + 1):
            left, right = max(c - 1, 0), min(c, width - 1)
            reach[r, c] = max(max(upper[left], upper[right]), max(lower[left], lower[right]))


@kernel()
def _classify(  # type: ignore[no-untyped-def] # numba finds the types
    alpha, in_view, stands, half_distance, reach, blocks, blank, count_y, count_z, pose, camera, intrinsics,
    tolerance, intervals, bins, steps, of_ground, of_obstacle, probability, state
) -> None:  # fmt: skip
    """Probability and state of the voxels of some blocks of so many voxels, all [X Y Z]; see `VoxelClassifier`.

    Loops are short, and go over one array or from another into it: so they run in vector lanes, even where they look
    things up. numba tells LLVM that arguments do not overlap, as long as no other array has a view.
    """
    height, width = half_distance.shape
    seen_to, faces_to = half_distance.reshape(-1), reach.reshape(-1)
    for number in prange(blank.size):
        start = blank[number] * BLOCK
        probability[start : start + BLOCK] = ZERO
        state[start : start + BLOCK] = 0
    for number in prange(blocks.size):
        start = blocks[number] * BLOCK
        size = min(BLOCK, alpha.size - start)
        shown, high = in_view[start : start + size], stands[start : start + size]
        opacities = alpha[start : start + size]
        probabilities, states = probability[start : start + size], state[start : start + size]
        work, place = np.empty((ROWS, BLOCK), np.float32), np.empty((PLACES, BLOCK), np.int32)
        x, y, z = start // count_z // count_y, start // count_z % count_y, start % count_z
        for j in range(size):  # halves keep the quotients away from whole numbers, so that they are exact
            above = np.int32(z + j)
            columns = np.int32((np.float32(above) + HALF) / np.float32(count_z))
            across = np.int32(y + columns)
            rows = np.int32((np.float32(across) + HALF) / np.float32(count_y))
            work[X, j] = np.float32(np.int32(x + rows)) + HALF
            work[Y, j] = np.float32(np.int32(across - rows * count_y)) + HALF
            work[Z, j] = np.float32(np.int32(above - columns * count_z)) + HALF
        for j in range(size):
            column, row, distance, _ = projected(work[X, j], work[Y, j], work[Z, j], pose, intrinsics)
            c = min(max(np.int32(np.floor(column + HALF)), 0), width - 1)
            r = min(max(np.int32(np.floor(row + HALF)), 0), height - 1)
            place[PIXEL, j], work[DISTANCE, j] = r * width + c, distance
        for j in range(size):
            work[ALPHA, j], work[SEEN_TO, j] = opacities[j], seen_to[np.uint32(place[PIXEL, j])]
        for j in range(size):
            leading: Any = np.float32(work[ALPHA, j]).view(np.int32) >> COARSE
            place[BIN, j] = min(max(leading, 0), LAST)
        for j in range(size):
            place[BIN, j] = bins[np.uint32(place[BIN, j])]
        for _ in range(steps):
            for j in range(size):
                place[BIN, j] += work[ALPHA, j] > intervals[np.uint32(place[BIN, j] + 1), 0]
        for part in range(4):
            for j in range(size):
                work[LOW + part, j] = intervals[np.uint32(place[BIN, j]), part]
        for j in range(size):
            share = (work[ALPHA, j] - work[LOW, j]) / work[WIDTH, j]
            p = work[VALUE, j] + min(max(share, ZERO), ONE) * work[RISE, j]
            occupied = TO_OCCUPIED if p >= (of_obstacle if high[j] else of_ground) else 0
            free = FREE_SEEN if work[DISTANCE, j] <= work[SEEN_TO, j] + tolerance else FREE_INFERRED
            work[VALUE, j], place[STATE, j] = p, free + occupied
        for j in range(size):
            place[STATE, j] = place[STATE, j] if shown[j] else 0
        for j in range(size):
            work[VALUE, j] = work[VALUE, j] if place[STATE, j] > 0 else ZERO
        hidden = 0
        for j in range(size):
            place[PIXEL, hidden] = j
            hidden += place[STATE, j] == COMPLETED
        # Of occupied voxels that are not seen yet, the faces that are turned to the camera.
        for n in range(hidden):
            at = np.uint32(place[PIXEL, n])
            work[X, n], work[Y, n], work[Z, n] = work[X, at], work[Y, at], work[Z, at]
        for axis in range(3):
            e_x, e_y, e_z = np.float32(axis == 0), np.float32(axis == 1), np.float32(axis == 2)
            for n in range(hidden):
                x, y, z = work[X, n], work[Y, n], work[Z, n]
                offset = e_x * (camera[0] - x) + e_y * (camera[1] - y) + e_z * (camera[2] - z)
                shift = HALF if offset > ZERO else -HALF
                column, row, distance, depth = projected(
                    x + shift * e_x, y + shift * e_y, z + shift * e_z, pose, intrinsics
                )
                c = min(max(np.int32(np.floor(column)), -1), width - 1) + 1
                r = min(max(np.int32(np.floor(row)), -1), height - 1) + 1
                place[BIN, n] = r * (width + 1) + c
                work[DISTANCE, n] = distance if abs(offset) > HALF and depth > ZERO else NOWHERE
            for n in range(hidden):
                if work[DISTANCE, n] <= faces_to[np.uint32(place[BIN, n])]:
                    place[STATE, np.uint32(place[PIXEL, n])] = SURFACE
        for j in range(size):
            probabilities[j] = work[VALUE, j]
        for j in range(size):
            states[j] = np.uint8(place[STATE, j])


def occupied_voxels(state: Bytes, probability: Floats) -> tuple[Ints, Floats]:
    """Flat indices [N] of the voxels of `state` [X, Y, Z] that are occupied, in order, and `probability` of these."""
    occupied, found = _list_occupied(state.reshape(-1), probability.reshape(-1))
    return occupied, found


@kernel()
def _list_occupied(state: Any, probability: Any) -> Any:
    blocks, eights = -(-state.size // LISTED), state[: state.size // 8 * 8].view(np.uint64)
    ends = np.zeros(blocks + 1, np.int64)
    for block in prange(blocks):
        ends[block + 1] = (state[block * LISTED : (block + 1) * LISTED] >= SURFACE).sum()
    ends = np.cumsum(ends)
    occupied, found = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.float32)
    for block in prange(blocks):
        at, stop = ends[block], min((block + 1) * LISTED, state.size)
        for eight in range(block * LISTED // 8, (stop + 7) // 8):
            # One more makes states of occupied voxels, and no others, 4 or 5: eight free ones are passed at once.
            if eight == eights.size or (eights[eight] + EIGHT_ONES) & (EIGHT_ONES << np.uint64(2)):
                for i in range(8 * eight, min(8 * eight + 8, stop)):
                    if state[i] >= SURFACE:
                        occupied[at], found[at] = i, probability[i]
                        at += 1
    return occupied, found


def axis_indices(flat: Integers, shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """``np.unravel_index`` of ascending `flat` [N] in `shape`: int32 [N, 3], without a division a voxel."""
    index = np.empty((len(flat), 3), dtype=np.int32)
    _fill_indices(flat, shape[1], shape[2], index)
    return index


@kernel(parallel=False)
def _fill_indices(flat: Any, count_y: Any, count_z: Any, index: Any) -> None:
    x, y, column = 0, 0, 0  # column: flat index of the voxel (x, y, 0)
    for n in range(len(flat)):
        while flat[n] >= column + count_z:
            column += count_z
            y += 1
            if y == count_y:
                y = 0
                x += 1
        index[n, 0], index[n, 1], index[n, 2] = x, y, flat[n] - column
