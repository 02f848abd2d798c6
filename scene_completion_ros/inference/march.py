"""Marching the camera's rays through predicted voxels: transmittance, depth, and how far a ray sees.

Rays advance in steps of one voxel edge, at distances (i + 1/2) delta from the camera, and read the voxel they are in.
With T_0 = 1,

    w_i = T_i alpha_i,    T_{i+1} = T_i (1 - alpha_i)        (Max 1995, emission-absorption)

Depth and transmittance are made of alpha as the network gives it. alpha is no probability, though. Training by
rendering leaves surfaces at 0.05 to 0.3, and a wall of three such voxels would let most of a ray through. All that is
published or thresholded is the calibrated probability, and the states of voxels follow it. For them an occupied voxel
(calibrated probability at or above its threshold) is opaque,

    T_state,i+1 = T_state,i (1 - alpha_i) for a free voxel,    0 for an occupied one

so that nothing behind an occupied voxel is ever taken for seen. A student may predict the depth of each pixel, which is
more accurate than its voxels. Then a ray is not attenuated: it ends there, or at the first occupied voxel before
(`sight`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange

from scene_completion_ros.arrays import Floats, Mask
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid, grid_rays
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels.occupancy import SEEN

# A ray ends where less than this part of it is left; the rest counts as ending there too.
SPENT = 1e-3
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
NEVER, NOTHING = np.float32(np.inf), np.float32(np.nan)
CHUNK = 16  # a power of two: steps whose voxels are found side by side
T_SPENT, T_SEEN = np.float32(SPENT), np.float32(SEEN)


@dataclass(frozen=True, eq=False)
class MarchResult:
    """What the rays of a camera met in the grid.

    Where a student predicts depth (`sight`), that is the depth, inside of the grid or not. The transmittance
    is 1 where that is the farthest it predicts, and 0 elsewhere. Then half_distance is where the ray ends:
    at that depth, or at the first occupied voxel before; 0 where the depth is no number.
    """

    # float32 [h, w], expected termination as z-depth in metres. What is left of a ray that leaves the grid counts as
    # ending where it leaves; ``transmittance`` is how much that was. NaN for rays that miss the grid.
    depth: Floats
    # float32 [h, w], distance along the ray, metres, of the first step after which T_state < 0.5. That is the first
    # step in an occupied voxel, unless free ones have taken half of the ray before. Infinite where there is none.
    half_distance: Floats
    # float32 [h, w], T where the ray left the grid (0 for spent rays, 1 for rays that miss the grid).
    transmittance: Floats


class March:
    """Marches the rays of one camera through one grid."""

    def __init__(
        self,
        grid: VoxelGrid,
        camera_from_grid: RigidTransform,
        camera: Camera,
        # Alpha from which a voxel counts as occupied, `Calibration.occupied_from` of the threshold.
        occupied_from: float | np.float32,
        *,
        far: float = math.inf,  # depth, metres, from which on a student that predicts depth sees nothing
        obstacle_from: float | np.float32 | None = None,  # the same of what stands on the ground; None: no other
    ) -> None:
        rays = grid_rays(grid, camera_from_grid, camera)
        self.grid, self.camera = grid, camera
        self.occupied_from = np.float32(occupied_from)
        self.obstacle_from = np.float32(occupied_from if obstacle_from is None else obstacle_from)
        # `GridRays` as the kernel takes them: origin [3], direction [R, 3], cosine [R], first [R], stop [R] and leave
        # [R] (metres), float32 and int32.
        reals = rays.origin, rays.direction, rays.cosine, rays.leave
        origin, direction, cosine, leave = (part.astype(np.float32) for part in reals)
        self.rays = origin, direction, cosine, rays.first, rays.stop, leave
        self.far = np.float32(far)

    def __call__(self, alpha: Floats, depth: Floats | None = None, stands: Mask | None = None) -> MarchResult:
        """Marches through alpha, float32 [X, Y, Z], up to the depth, float32 [h, w], where a student predicts it.

        `stands`: bool [X, Y, Z], with a depth: what stands on the ground; None for nothing.
        """
        shape = (self.camera.height, self.camera.width)
        read, (origin, *rest) = (alpha, self.occupied_from, np.float32(self.grid.voxel_size), shape[1]), self.rays
        if depth is not None:
            half_distance = np.empty(shape, dtype=np.float32)
            high = np.zeros(alpha.shape, np.bool_) if stands is None else stands
            above = high.reshape(-1), self.obstacle_from
            _see_to_depth(*read, *above, depth.reshape(-1), tuple(origin), *rest[:-1], half_distance.reshape(-1))
            return MarchResult(depth.copy(), half_distance, (depth >= self.far).astype(np.float32))
        out = tuple(np.empty(shape, dtype=np.float32) for _ in range(3))
        _march_rays(*read, tuple(origin), *rest, *(part.reshape(-1) for part in out))
        return MarchResult(*out)


@inlined
def voxels_along(step: Any, origin: Any, d_x: Any, d_y: Any, d_z: Any, shape: Any, voxels: Any) -> None:
    """Flat indices of the voxels in which a ray is at a step and at those that follow, in vector lanes."""
    for i in range(CHUNK):
        along = np.float32(step + i) + HALF
        # Truncation is the floor inside the grid; the clamps catch rounding at its sides.
        x = min(max(np.int32(origin[0] + along * d_x), 0), shape[0] - 1)
        y = min(max(np.int32(origin[1] + along * d_y), 0), shape[1] - 1)
        z = min(max(np.int32(origin[2] + along * d_z), 0), shape[2] - 1)
        voxels[i] = (x * shape[1] + y) * shape[2] + z


# Rays go column by column of the image: those of one mostly go through the same columns of voxels.


@kernel()
def _see_to_depth(  # type: ignore[no-untyped-def] # numba finds the types
    alpha, occupied_from, step_length, width, stands, obstacle_from, depth, origin, direction, cosine, first, stop,
    half_distance
) -> None:  # fmt: skip
    flat = alpha.reshape(-1)
    for column in prange(width):
        voxels = np.empty(CHUNK, np.int32)
        for ray in range(column, first.size, width):
            d_x, d_y, d_z = direction[ray, 0], direction[ray, 1], direction[ray, 2]
            end, turned = depth[ray] / cosine[ray], NEVER
            for step in range(first[ray], stop[ray]):
                along = np.float32(step) + HALF
                if not along * step_length < end:
                    turned = ZERO if np.isnan(end) else end
                    break
                chunk = (step - first[ray]) & (CHUNK - 1)
                if chunk == 0:
                    voxels_along(step, origin, d_x, d_y, d_z, alpha.shape, voxels)
                at = np.uint32(voxels[chunk])
                if flat[at] >= (obstacle_from if stands[at] else occupied_from):
                    turned = along * step_length
                    break
            half_distance[ray] = turned


@kernel()
def _march_rays(  # type: ignore[no-untyped-def] # numba finds the types
    alpha, occupied_from, step_length, width, origin, direction, cosine, first, stop, leave, depth, half_distance,
    transmittance
) -> None:  # fmt: skip
    flat = alpha.reshape(-1)
    for column in prange(width):
        voxels = np.empty(CHUNK, np.int32)
        for ray in range(column, first.size, width):
            d_x, d_y, d_z = direction[ray, 0], direction[ray, 1], direction[ray, 2]
            left, distance, turned = ONE, ZERO, NEVER
            step, seen = first[ray], True
            # T_state is T up to the first occupied voxel and 0 from there on. "Not at least" instead of "less"
            # catches NaN, too.
            while step < stop[ray] and (seen or not left < T_SPENT):
                chunk = (step - first[ray]) & (CHUNK - 1)
                if chunk == 0:
                    voxels_along(step, origin, d_x, d_y, d_z, alpha.shape, voxels)
                along = np.float32(step) + HALF
                opacity = flat[np.uint32(voxels[chunk])]
                distance += left * opacity * along
                left *= ONE - opacity
                step += 1
                if seen and (opacity >= occupied_from or not left >= T_SEEN):
                    turned, seen = along * step_length, False
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
