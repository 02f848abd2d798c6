"""Where the places of a volume look at an earlier image, compiled: the twin of `volume_pose.cell_lookups`."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.volume_pose import ASIDE, LOOK_LIMIT, Lookups
from scene_completion_ros.jit import kernel


@functools.cache
def _kernel() -> Callable[..., None]:
    limit, one = np.float32(LOOK_LIMIT), np.float32(1.0)
    aside = np.float32(ASIDE)

    @kernel()
    def look(
        origin: Any,
        edge: Any,
        count_x: Any,
        r: Any,
        t: Any,
        lens: Any,
        least: Any,
        now: Any,
        pixels: Any,
        depth: Any,
        shown: Any,
    ) -> None:
        count_y = depth.shape[1] // count_x
        half = np.float32(0.5)
        for row in prange(depth.shape[0] * count_x):
            z, x = row // count_x, row % count_x
            place_x = origin[0] + edge * (np.float32(x) + half) - t[0]
            place_z = origin[2] + edge * (np.float32(z) + half) - t[2]
            across = place_x * r[0, 0] + place_z * r[2, 0]
            along = place_x * r[0, 1] + place_z * r[2, 1]
            away = place_x * r[0, 2] + place_z * r[2, 2]
            from_x, from_z = place_x + t[0] - now[0], place_z + t[2] - now[2]
            for y in range(count_y):
                place_y = origin[1] + edge * (np.float32(y) + half) - t[1]
                from_y = place_y + t[1] - now[1]
                ahead = away + place_y * r[1, 2]
                near = one / max(ahead, least)
                u = (across + place_y * r[1, 0]) * near * lens[0] + lens[1]
                v = (along + place_y * r[1, 1]) * near * lens[2] + lens[3]
                place = x * count_y + y
                depth[z, place] = ahead
                inside = abs(u) <= one and abs(v) <= one and ahead > np.float32(0.0)
                there = place_x * place_x + place_y * place_y + place_z * place_z
                here = from_x * from_x + from_y * from_y + from_z * from_z
                along_both = place_x * from_x + place_y * from_y + place_z * from_z
                cosine = along_both / np.sqrt(max(there * here, np.float32(1e-6)))
                new = one - np.exp((cosine - one) * aside)
                shown[z, place] = new if inside else np.float32(0.0)
                pixels[z, place, 0] = min(max(u, -limit), limit)
                pixels[z, place, 1] = min(max(v, -limit), limit)

    return look


def write_lookups(
    into: Lookups,
    grid: VoxelGrid,
    stride: int,
    camera: Camera,
    spec: PointCodeSpec,
    volume_from_camera: RigidTransform,
    now: RigidTransform,
) -> None:
    """Writes `cell_lookups` of an earlier camera into float32 arrays [z, x y, 2], [1, z, x y] and [1, z, x y].

    What is in view there counts by its `parallax` to the camera of now, whose pose in the volume `now` is. Other
    arguments as those of `cell_lookups`.
    """
    origin, edge = np.asarray(grid.origin, np.float32), np.float32(grid.voxel_size * stride)
    rotation = np.ascontiguousarray(volume_from_camera.rotation, np.float32)
    translation = np.asarray(volume_from_camera.translation, np.float32)
    half: NDArray[np.float32] = np.array([0.5 * camera.width, 0.5 * camera.height], np.float32)
    lens = np.array(
        [
            camera.fx / half[0],
            (camera.cx + 0.5) / half[0] - 1.0,
            camera.fy / half[1],
            (camera.cy + 0.5) / half[1] - 1.0,
        ],
        np.float32,
    )
    least = np.float32(spec.minimum_depth)
    count_x = -(-grid.shape[0] // stride)
    origin_now = np.asarray(now.translation, np.float32)
    outputs = into.pixels, into.depth[0], into.in_view[0]
    _kernel()(origin, edge, count_x, rotation, translation, lens, least, origin_now, *outputs)
