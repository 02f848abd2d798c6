"""Voxel centres around a frame with evidence of being occupied: fused from stereo depth, or known exactly.

A voxel that the depth points of a frame fall into collects evidence for "occupied". One that a frame looks through,
well in front of what it measured, collects evidence for "free". Frames that are nearer weigh more, because the error of
stereo depth grows with the square of the distance. This sees behind the obstacles of any single image, as soon as the
drive passes them, without LiDAR and without labels.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, RigidTransform, VoxelGrid
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.arrays import Doubles, Floats, Random, Reals
from scene_completion_training.data.stereo import MeasuredDepth
from scene_completion_training.viewpoint import Volume

_Function = TypeVar("_Function", bound=Callable[..., Any])
Meter: TypeAlias = Callable[[int], MeasuredDepth]  # of frames by number
POINT_UNIT = 0.002  # metres per step of the stored voxel centres (int16: ±65 m)
_FREE_FACTOR = 0.3  # of free against hit evidence: rays that graze a surface pass through its voxels too


def _jit(function: _Function) -> _Function:
    compiled: _Function = numba.njit(cache=True, fastmath=False)(function)
    return compiled


@dataclass(frozen=True, eq=False)
class DepthView:
    """Depth seen from one pose."""

    depth: Floats  # z-depth [H, W] in metres, 0 where unknown
    matrix: Doubles  # intrinsics [3, 3] of the depth image
    grid_from_camera: RigidTransform  # pose of the view in the grid's frame
    deviation: Floats  # standard deviation of the depth [H, W], metres
    # Factor on this view's evidence for free space; above one for the frame the grid belongs to, whose view of moving
    # objects counts more.
    trust: float = 1.0


@_jit
def _splat(
    points: Floats,
    weights: Floats,
    origin: Floats,
    size: float,
    view: int,
    last: NDArray[np.int16],
    pixels: NDArray[np.int16],
    hits: Floats,
) -> None:
    """Adds one view's hit evidence: each view counts once per voxel, from its second depth pixel on."""
    nx, ny, nz = hits.shape
    for i in range(points.shape[0]):
        x = int(np.floor((points[i, 0] - origin[0]) / size))
        y = int(np.floor((points[i, 1] - origin[1]) / size))
        z = int(np.floor((points[i, 2] - origin[2]) / size))
        if x < 0 or y < 0 or z < 0 or x >= nx or y >= ny or z >= nz:
            continue
        if last[x, y, z] != view:
            last[x, y, z] = view
            pixels[x, y, z] = 0
        pixels[x, y, z] += 1
        if pixels[x, y, z] == 2:
            hits[x, y, z] += weights[i]


@_jit
def _carve(
    centres: Floats,
    rotation: Floats,
    translation: Floats,
    intrinsics: Floats,
    nearest: Floats,
    margin: Floats,
    trust: float,
    least: float,
    free: Floats,
) -> None:
    """Adds one view's evidence for free space to voxel centres in front of what the view measured."""
    height, width = nearest.shape
    for i in range(centres.shape[0]):
        x, y, z = centres[i, 0], centres[i, 1], centres[i, 2]
        depth = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + translation[2]
        if depth < least:
            continue
        right = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + translation[0]
        down = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + translation[1]
        u = int(np.floor(intrinsics[0] * right / depth + intrinsics[2] + 0.5))
        v = int(np.floor(intrinsics[1] * down / depth + intrinsics[3] + 0.5))
        if u < 0 or v < 0 or u >= width or v >= height or nearest[v, u] <= 0.0:
            continue
        if depth < nearest[v, u] - margin[v, u]:
            free[i] += trust


def fuse_occupancy(
    views: list[DepthView],
    grid: VoxelGrid,
    *,
    free_samples: int,  # voxels that are tested for free space, drawn at random; all, if they are no more
    generator: Random,
    depths: tuple[float, float] = (0.5, 60.0),  # nearest and farthest depth pixels that count, metres
) -> tuple[Floats, Floats, Floats]:
    """Fuses depth views into evidence at voxel centres.

    Returns voxel centres [N, 3] in the grid's frame, occupancy target [N] in 0..1 and evidence [N] (sum of weights).
    """
    hits = np.zeros(grid.shape, np.float32)
    last = np.full(grid.shape, -1, np.int16)
    pixels = np.zeros(grid.shape, np.int16)
    origin = np.asarray(grid.origin, np.float32)
    least, most = depths
    for number, view in enumerate(views):
        v, u = np.nonzero((view.depth > least) & (view.depth < most))
        z = view.depth[v, u]
        fx, fy, cx, cy = view.matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
        ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(len(u))], axis=-1)
        points = np.asarray(view.grid_from_camera.apply(ray * z[:, None]), np.float32)
        weights = 1.0 / (1.0 + (view.deviation[v, u] / np.float32(grid.voxel_size)) ** 2)
        _splat(points, weights.astype(np.float32), origin, grid.voxel_size, number, last, pixels, hits)
    hit = np.flatnonzero(hits)
    drawn = np.full(hits.size, free_samples >= hits.size)  # a mask sorts millions of numbers; np.unique takes seconds
    drawn[generator.integers(0, hits.size, free_samples)] = True
    drawn[hit] = False
    chosen = np.concatenate([hit, np.flatnonzero(drawn)])
    index = np.stack(np.unravel_index(chosen, grid.shape), axis=-1)
    centres = ((index + 0.5) * grid.voxel_size + origin).astype(np.float32)
    free = np.zeros(len(chosen), np.float32)
    for view in views:
        camera_from_grid = view.grid_from_camera.inverse()
        pose = camera_from_grid.rotation.astype(np.float32), camera_from_grid.translation.astype(np.float32)
        lens = view.matrix[[0, 1, 0, 1], [0, 1, 2, 2]].astype(np.float32)
        margin = (1.5 * grid.voxel_size + 1.5 * view.deviation).astype(np.float32)
        filled = np.where(view.depth > 0, view.depth, np.float32(1e6))
        # The smallest depth around a pixel that is known itself, so that edges carve nothing away.
        nearest = np.where(view.depth > 0, cv2.erode(filled, np.ones((3, 3), np.uint8)), 0).astype(np.float32)
        _carve(centres, *pose, lens, nearest, margin, view.trust, least, free)
    occupied = hits.ravel()[chosen]
    evidence = occupied + _FREE_FACTOR * free
    known = evidence > 0
    target = occupied[known] / evidence[known]
    return centres[known], target.astype(np.float32), evidence[known].astype(np.float32)


def metres_around(volume: Volume) -> tuple[float, float]:
    """Travelled distance before and after a frame that its sequence is fused over: 15 m and 45 m on a street."""
    return 15.0 * volume.scale, 45.0 * volume.scale


@dataclass(frozen=True)
class FusionSettings:
    """How far around a frame its sequence is fused."""

    views: int = 14  # most views used
    free_samples: int = 300_000  # voxels tested for free space
    kept: int = 120_000  # most voxels kept a frame, half of them with hits


def fusion_views(
    sequence: PosedSequence, index: int, left: str, depth: Meter, settings: FusionSettings, volume: Volume
) -> Iterator[DepthView]:
    """Depth views to fuse for a frame: itself, then frames spread evenly over the distance travelled around it.

    Yields:
        Views at half resolution, or the smaller one that the depth has. Their grid frame is the frame's left camera,
        axes x forward, y left, z up.
    """
    positions = np.array([sequence.world_from_camera(i, left).translation for i in range(len(sequence))])
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(positions, axis=0), axis=1))])
    travelled -= travelled[index]
    behind, ahead = metres_around(volume)
    near = np.flatnonzero((travelled >= -behind) & (travelled <= ahead))
    wanted = np.linspace(travelled[near[0]], travelled[near[-1]], settings.views)
    others = {int(near[np.abs(travelled[near] - w).argmin()]) for w in wanted} - {index}
    grid_from_world = OPTICAL_FROM_FORWARD.inverse() @ sequence.world_from_camera(index, left).inverse()
    for other in [index, *sorted(others)]:
        found = depth(other)
        step = 2 if found.camera.width == sequence.cameras[left].width else 1  # every second pixel, from (0, 0) on
        yield DepthView(
            depth=np.ascontiguousarray(found.depth[::step, ::step]),
            matrix=np.diag([1.0 / step, 1.0 / step, 1.0]) @ found.camera.matrix,
            grid_from_camera=grid_from_world @ sequence.world_from_camera(other, left),
            deviation=np.ascontiguousarray(found.deviation[::step, ::step]),
            trust=3.0 if other == index else 1.0,
        )


def fused_voxels(
    views: list[DepthView], settings: FusionSettings, volume: Volume, *, seed: int
) -> dict[str, NDArray[Any]]:
    """Evidence on a grid ahead of the camera, slightly turned and shifted at random against its axes."""
    generator = np.random.default_rng(seed)
    half = volume.voxel_size / 2.0
    yaw, offset = generator.uniform(-0.15, 0.15), generator.uniform(-half, half, 3)
    cos, sin = np.cos(yaw), np.sin(yaw)
    turned_from_grid = RigidTransform(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]), np.zeros(3))
    fused = volume.fused_grid
    x, y, z = fused.origin
    grid = dataclasses.replace(fused, origin=(x + offset[0], y + offset[1], z + offset[2]))
    turned = [dataclasses.replace(view, grid_from_camera=turned_from_grid @ view.grid_from_camera) for view in views]
    centres, target, evidence = fuse_occupancy(
        turned, grid, free_samples=settings.free_samples, generator=generator, depths=volume.fused_depth
    )
    optical = (OPTICAL_FROM_FORWARD @ turned_from_grid.inverse()).apply(centres)
    return _stored(np.asarray(optical), target, evidence, settings.kept, generator)


def exact_voxels(sequence: PosedSequence, index: int, left: str, *, kept: int) -> dict[str, NDArray[Any]]:
    """Ground truth of a rendered frame as voxel centres with evidence.

    What no sensor could ever tell is left out: what lies below the ground, and insides of houses, cars and crowns.

    `sequence`: sequence with the assets "voxel_label" and "voxel_flags"; `kept`: most voxels kept, half of them
    occupied.
    """
    truth = voxel_truth(sequence, index, left)
    if truth is None or truth.interior is None or truth.label is None:
        raise SequenceError("holds no ground truth voxels", where=f"{sequence.name}, frame {index}")
    known = np.flatnonzero(truth.known & ~truth.interior)
    centres = truth.grid.centres().reshape(-1, 3)[known]
    target = truth.occupied.ravel()[known].astype(np.float32)
    optical = np.asarray(truth.grid_from_camera.inverse().apply(centres))
    return _stored(optical, target, np.ones_like(target), kept, np.random.default_rng(index))


def _stored(points: Reals, target: Floats, evidence: Floats, kept: int, generator: Random) -> dict[str, NDArray[Any]]:
    """A random choice of voxels as they are stored, half of them with hits."""
    groups = (np.flatnonzero(target > 0), np.flatnonzero(target == 0))
    chosen = np.concatenate([generator.permutation(group)[: kept // 2] for group in groups])
    return {
        "points": np.round(points[chosen] / POINT_UNIT).astype(np.int16),
        "target": np.round(target[chosen] * 255).astype(np.uint8),
        "evidence": evidence[chosen].astype(np.float16),
    }
