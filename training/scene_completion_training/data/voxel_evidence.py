"""What the frames of a drive know of the voxels around one: fused from depth, or known exactly; and of the ground.

A voxel that the depth points of a frame fall into collects evidence for "occupied". One that a frame looks through,
well in front of what it measured, collects evidence for "free". Frames that are nearer weigh more, because the error of
stereo depth grows with the square of the distance. This sees behind the obstacles of any single image, as soon as the
drive passes them, without LiDAR and without labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median
from scipy.optimize import least_squares

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.scan_voxels import grazed, ground_of_scans, scan_labels
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.evaluation.truth import FREE
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.road_plane import fitted_plane
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.sequences.opening import sensor_pose, voxel_truth
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES, PosedSequence, cameras_ahead
from scene_completion_training.arrays import Bytes, Doubles, Floats, Ints, Mask, Random, Reals
from scene_completion_training.data.stereo import Meter, depth_meter
from scene_completion_training.viewpoint import Volume

POINT_UNIT = 0.002  # metres per step of the stored voxel centres (int16: ±65 m)
_FREE_FACTOR = 0.3  # of free against hit evidence: rays that graze a surface pass through its voxels too


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

    @property
    def lens(self) -> Doubles:
        """Focal lengths and principal point [4]: fx, fy, cx, cy."""
        return self.matrix[[0, 1, 0, 1], [0, 1, 2, 2]]


def _hit(view: DepthView, grid: VoxelGrid, depths: tuple[float, float]) -> tuple[Ints, Floats]:
    """Voxels [N] that a view hits, by their place in the flat grid, with the weights of this evidence [N].

    Each view counts once per voxel, from its second depth pixel on.
    """
    v, u = np.nonzero((view.depth > depths[0]) & (view.depth < depths[1]))
    fx, fy, cx, cy = view.lens
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(len(u))], axis=-1)
    points = np.asarray(view.grid_from_camera.apply(ray * view.depth[v, u, None]), np.float32)
    cells = np.floor((points - np.asarray(grid.origin, np.float32)).astype(np.float64) / grid.voxel_size).astype(
        np.int64
    )
    inside = ((cells >= 0) & (cells < grid.shape)).all(axis=1)
    voxels = np.ravel_multi_index(tuple(cells[inside].T), grid.shape)
    order = np.argsort(voxels, kind="stable")
    first = np.flatnonzero(np.diff(voxels[order], prepend=-1))
    second = order[first[np.diff(first, append=len(order)) > 1] + 1]
    deviation = view.deviation[v, u][inside][second]
    return voxels[second], (1.0 / (1.0 + (deviation / np.float32(grid.voxel_size)) ** 2)).astype(np.float32)


def _looked_through(view: DepthView, centres: Floats, margin: Floats, least: float) -> Ints:
    """Which voxel centres [N, 3], at a depth of `least` or more, lie by a margin [H, W] before what a view measured."""
    filled = np.where(view.depth > 0, view.depth, np.float32(1e6))
    # The smallest depth around a pixel that is known itself, so that edges carve nothing away.
    free_until = np.where(view.depth > 0, cv2.erode(filled, np.ones((3, 3), np.uint8)) - margin, np.float32(0.0))
    camera_from_grid = view.grid_from_camera.inverse().matrix[:3].astype(np.float32)
    x, y, z = centres.T
    right, down, depth = (a * x + b * y + c * z + offset for a, b, c, offset in camera_from_grid)
    ahead = np.flatnonzero(depth >= least)
    fx, fy, cx, cy = view.lens.astype(np.float32)
    u, v = fx * right[ahead] / depth[ahead] + cx, fy * down[ahead] / depth[ahead] + cy
    column, row = (np.floor(place.astype(np.float64) + 0.5) for place in (u, v))
    height, width = free_until.shape
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    ahead, pixel = ahead[inside], (row[inside].astype(int), column[inside].astype(int))
    return np.asarray(ahead[depth[ahead] < free_until[pixel]])


def fuse_occupancy(
    views: list[DepthView],
    grid: VoxelGrid,
    free_samples: int,  # voxels that are tested for free space, drawn at random; all, if they are no more
    generator: Random,
    depths: tuple[float, float] = (0.5, 60.0),  # nearest and farthest depth pixels that count, metres
) -> tuple[Floats, Floats, Floats]:
    """Fuses depth views into evidence at voxel centres.

    Returns voxel centres [N, 3] in the grid's frame, occupancy target [N] in 0..1 and evidence [N] (sum of weights).
    """
    hits = np.zeros(math.prod(grid.shape), np.float32)
    for view in views:
        voxels, weights = _hit(view, grid, depths)
        hits[voxels] += weights
    hit = np.flatnonzero(hits)
    drawn = np.full(hits.size, free_samples >= hits.size)  # a mask sorts millions of numbers; np.unique takes seconds
    drawn[generator.integers(0, hits.size, free_samples)] = True
    drawn[hit] = False
    chosen = np.concatenate([hit, np.flatnonzero(drawn)])
    index = np.stack(np.unravel_index(chosen, grid.shape), axis=-1)
    centres = ((index + 0.5) * grid.voxel_size + np.asarray(grid.origin, np.float32)).astype(np.float32)
    free = np.zeros(len(chosen), np.float32)
    for view in views:
        margin = (1.5 * grid.voxel_size + 1.5 * view.deviation).astype(np.float32)
        free[_looked_through(view, centres, margin, depths[0])] += view.trust
    occupied = hits[chosen]
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


def frames_around(sequence: PosedSequence, index: int, camera: str, count: int, volume: Volume) -> list[int]:
    """A frame, then so many others at most, spread evenly over the distance travelled around it."""
    positions = np.array([sequence.world_from_camera(i, camera).translation for i in range(len(sequence))])
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(positions, axis=0), axis=1))])
    travelled -= travelled[index]
    behind, ahead = metres_around(volume)
    near = np.flatnonzero((travelled >= -behind) & (travelled <= ahead))
    wanted = np.linspace(travelled[near[0]], travelled[near[-1]], count)
    others = {int(near[np.abs(travelled[near] - w).argmin()]) for w in wanted} - {index}
    return [index, *sorted(others)]


def fusion_views(
    sequence: PosedSequence,
    index: int,
    left: str,
    depth: Meter,
    settings: FusionSettings,
    volume: Volume,
    grid_from_forward: RigidTransform,  # pose in the grid of the frame's left camera with axes x forward, y left, z up
) -> list[DepthView]:
    """Depth views to fuse for a frame, of `frames_around`; of half the resolution, or the smaller one of the depth."""
    forward_from_world = OPTICAL_FROM_FORWARD.inverse() @ sequence.world_from_camera(index, left).inverse()
    views = []
    for other in frames_around(sequence, index, left, settings.views, volume):
        found = depth(other)
        step = 2 if found.camera.width == sequence.cameras[left].width else 1  # every second pixel, from (0, 0) on
        view = DepthView(
            depth=np.ascontiguousarray(found.depth[::step, ::step]),
            matrix=np.diag([1.0 / step, 1.0 / step, 1.0]) @ found.camera.matrix,
            grid_from_camera=grid_from_forward @ (forward_from_world @ sequence.world_from_camera(other, left)),
            deviation=np.ascontiguousarray(found.deviation[::step, ::step]),
            trust=3.0 if other == index else 1.0,
        )
        views.append(view)
    return views


def fused_voxels(
    sequence: PosedSequence, index: int, left: str, depth: Meter, settings: FusionSettings, volume: Volume
) -> dict[str, NDArray[Any]]:
    """Evidence on a grid ahead of the camera, slightly turned and shifted at random against its axes."""
    generator = np.random.default_rng(index)
    half = volume.voxel_size / 2.0
    yaw, offset = generator.uniform(-0.15, 0.15), generator.uniform(-half, half, 3)
    turned_from_grid = RigidTransform(about(2, yaw), np.zeros(3))
    fused = volume.fused_grid
    grid = replace(fused, origin=tuple(np.add(fused.origin, offset)))
    views = fusion_views(sequence, index, left, depth, settings, volume, turned_from_grid)
    centres, target, evidence = fuse_occupancy(views, grid, settings.free_samples, generator, volume.fused_depth)
    optical = (OPTICAL_FROM_FORWARD @ turned_from_grid.inverse()).apply(centres)
    return _stored(np.asarray(optical), target, evidence, settings.kept, generator)


def exact_voxels(sequence: PosedSequence, index: int, left: str, *, kept: int) -> dict[str, NDArray[Any]]:
    """Ground truth of a rendered frame as voxel centres with evidence.

    What no sensor can observe is left out: what lies below the ground, and insides of houses, cars and crowns.

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


# What stereo knows of the voxels before a camera: the ground, what stands close by, and what a drive sees of them.


SKY = len(COMMON_CLASSES)  # class of pixels that no voxel can hold: the one behind those of their world
OF_NO_CLASS = 254  # an occupied voxel of unknown class
OCCUPIED = 0.5  # share of the evidence that has to speak for "occupied"
# A place is what its pixel sees if their depths differ by no more, voxels and a share of the depth.
_SAME_VOXELS, _SAME = 2.0, 0.05
_FARTHEST_GROUND_M = 40.0
_SURE = 0.75  # standard deviation of depth, in voxels, up to which one is known to hold what its pixel sees
_CELL = 4  # voxels to a side of the cells whose median height counts
_NEAR_M, _ASIDE_M = 18.0, 4.0  # the ground that a car stands on: no farther ahead and to the sides
_LEAST_PIXELS = 6
_LEAST_CELLS = 12
_ON_GROUND_M = 0.35  # height above the ground up to which a return is of the ground, if its pixel is
_OFF_SURFACE_M = 0.25  # cells farther from the fitted surface hold no ground: a hedge, a wrong match


def _grounds(names: Sequence[str]) -> list[int]:
    """Those of some classes that cameras stand on."""
    return [number for number, name in enumerate(names) if name in ("road", "sidewalk", "terrain", "floor")]


def voxels_of_pixels(
    depth: Floats,  # z-depth [H, W], metres, 0 where unknown
    deviation: Floats,  # its standard deviation [H, W], metres
    classes: Bytes,  # classes [H, W] of the pixels, that behind them for the sky, or 255
    camera: Camera,  # camera of the three
    grid: VoxelGrid,  # the voxels
    grid_from_camera: RigidTransform,  # pose of the camera in them; z points up
    names: Sequence[str] = COMMON_CLASSES,  # the classes
) -> tuple[Bytes, Floats]:
    """Labels of voxels that a measured depth knows, and heights of the ground.

    A voxel is occupied if it holds ground, or a surface that was measured to within a voxel. All else is unknown. One
    pair sees free space as well, but no far surface to within a voxel: a student of that learns that nothing
    stands anywhere. Returns labels [X, Y, Z]: a class, 255 unknown. Heights of the ground [X, Y] in the grid, metres;
    NaN where it is unknown.
    """
    v, u = np.nonzero(depth > 0.0)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.matrix).T
    points = grid_from_camera.apply(rays * depth[v, u, None])
    cells, inside = grid.index_of(points)
    points, cells, of_pixel = points[inside], cells[inside], (v[inside], u[inside])
    seen = classes[of_pixel]
    flat = np.isin(seen, _grounds(names)) & (depth[of_pixel] < _FARTHEST_GROUND_M)
    ground = _ground(points[flat], cells[flat], grid)
    label = np.full(grid.shape, INVALID, np.uint8)
    sure = ~flat & (deviation[of_pixel] < _SURE * grid.voxel_size) & (seen < len(names))
    label[tuple(cells[sure].T)] = seen[sure]
    of_column = np.full(grid.shape[:2], INVALID, np.uint8)
    of_column[tuple(cells[flat][:, :2].T)] = seen[flat]
    of_column = np.where(of_column == INVALID, _around(of_column), of_column)
    height = np.floor((ground - grid.origin[2]) / grid.voxel_size)
    x, y = np.nonzero((of_column != INVALID) & (height >= 0) & (height < grid.shape[2]))
    label[x, y, height[x, y].astype(int)] = of_column[x, y]
    return label, ground


def voxels_of_drive(
    sequence: PosedSequence,
    index: int,
    seen: Bytes,  # labels [X, Y, Z] of the frame itself, which count first, see `voxels_of_pixels`
    depth: Floats,  # z-depth [H, W] of the frame, metres, 0 where unknown
    classes: Bytes,  # classes [H, W] of its pixels, as `voxels_of_pixels`
    camera: Camera,  # camera of both
    volume: Volume,  # the space that is completed
    grid_from_left: RigidTransform,  # pose of the left camera in its grid
    names: Sequence[str] = COMMON_CLASSES,  # the classes
) -> Bytes:
    """Labels of voxels that several frames of a drive know, hidden ones among them.

    Returns labels [X, Y, Z]: 0 free, a class or `OF_NO_CLASS`, 255 unknown.
    """
    share, known = _evidence(sequence, index, volume, grid_from_left)
    label = np.where(known, EMPTY, INVALID).astype(np.uint8)
    occupied = np.nonzero(known & (share > OCCUPIED))
    places = grid_from_left.inverse().apply(volume.grid.centres()[occupied].astype(np.float64))
    named, visible = _pixels_of(places, depth, classes, camera, volume.voxel_size)
    label[occupied] = np.where(visible & (named < len(names)), named, OF_NO_CLASS)
    return np.where(seen != INVALID, seen, label)


def _pixels_of(places: Doubles, depth: Floats, classes: Bytes, camera: Camera, voxel_size: float) -> tuple[Bytes, Mask]:
    """Class of the pixel that each place [N, 3], optical frame, falls into, 255 for none; whether its depth agrees."""
    pixels, inside = camera.project(places)
    nearest = np.round(np.where(inside[:, None], pixels, 0.0)).astype(int)
    column, row = np.minimum(nearest, (camera.width - 1, camera.height - 1)).T
    visible = inside & (np.abs(depth[row, column] - places[:, 2]) < _SAME_VOXELS * voxel_size + _SAME * places[:, 2])
    return np.where(inside, classes[row, column], INVALID).astype(np.uint8), visible


def scans_around(
    sequence: PosedSequence,
    index: int,
    camera: str,  # whose pose is given
    grid_from_camera: RigidTransform,  # its pose in the grid
    volume: Volume,
) -> list[tuple[Doubles, Doubles]]:
    """Returns [N, 3] of the scan of a frame and then of others around it, and where the LiDAR stood [3], in a grid.

    Without poses there are no others.
    """
    frames = [index]
    if sequence.pose_source != UNKNOWN_POSES:
        frames = frames_around(sequence, index, camera, FusionSettings.views, volume)
    grid_from_world = grid_from_camera @ sequence.world_from_camera(index, camera).inverse()
    scans = []
    for frame in frames:
        points, placed = sequence.lidar(frame), sensor_pose(sequence, frame)
        if points is not None and placed is not None:
            grid_from_rig = grid_from_world @ sequence.frames[frame].world_from_rig
            scans.append((np.asarray(grid_from_rig.apply(points), np.float64), grid_from_rig.apply(placed.translation)))
    return scans


def voxels_of_scans(
    scans: Sequence[tuple[Doubles, Doubles]],  # see `scans_around`
    depth: Floats,  # z-depth [H, W] of the frame of the first scan, metres, 0 where unknown
    classes: Bytes,  # classes [H, W] of its pixels, as `voxels_of_pixels`
    camera: Camera,  # camera of both
    grid: VoxelGrid,  # the voxels
    grid_from_camera: RigidTransform,  # pose of the camera in them; z points up
    names: Sequence[str] = COMMON_CLASSES,  # the classes
) -> tuple[Bytes, Floats]:
    """Labels of voxels that LiDAR scans know, and heights of the ground.

    The first scan counts before the others, as things move. Where it knows nothing, a voxel is what most of the
    evidence of the others says, a scan each. Voxels of the ground, which rays graze, and below are never free; where it
    is unknown, it lies as nearby. Returns labels
    [X, Y, Z]: 0 free, the class of the pixel that sees a return, `OF_NO_CLASS`, 255 unknown; and heights of the ground
    [X, Y] in the grid, metres, NaN where it is unknown.
    """
    own, *others = (scan_labels(points, sensor, grid) for points, sensor in scans)
    hits, passed = (sum((found == value for found in others), np.zeros(grid.shape, np.int32)) for value in (1, FREE))
    occupied = np.where(own == INVALID, hits > OCCUPIED * (hits + _FREE_FACTOR * passed), own != FREE)
    label = np.where((own != INVALID) | (hits + passed > 0), EMPTY, INVALID).astype(np.uint8)
    points = np.concatenate([points for points, _ in scans])
    ground = ground_of_scans(points, grid)
    label[grazed(ground, grid)] = INVALID
    label[occupied] = OF_NO_CLASS
    cells, inside = grid.index_of(points)
    points, cells = points[inside], cells[inside]
    named, visible = _pixels_of(grid_from_camera.inverse().apply(points), depth, classes, camera, grid.voxel_size)
    with np.errstate(invalid="ignore"):
        low = points[:, 2] - ground[cells[:, 0], cells[:, 1]] <= _ON_GROUND_M
    sure = np.where(np.isin(named, _grounds(names)), low, visible & (named < len(names)))
    sure &= occupied[tuple(cells.T)]
    label[tuple(cells[sure].T)] = named[sure]
    return label, ground


def _evidence(
    sequence: PosedSequence, index: int, volume: Volume, grid_from_left: RigidTransform
) -> tuple[Floats, Mask]:
    """Evidence of a frame as for training: its share 0..1 for "occupied", and whether there is any; each [X, Y, Z]."""
    grid, left = volume.grid, cameras_ahead(sequence)[0]
    meter, settings = depth_meter(sequence, volume.ahead), FusionSettings(free_samples=math.prod(grid.shape))
    views = fusion_views(sequence, index, left, meter, settings, volume, grid_from_left @ OPTICAL_FROM_FORWARD)
    generator = np.random.default_rng(0)
    centres, target, _ = fuse_occupancy(views, grid, settings.free_samples, generator, volume.fused_depth)
    voxels = tuple(np.moveaxis(grid.index_of(centres)[0], -1, 0))
    score, known = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.bool_)
    score[voxels], known[voxels] = target, True
    return score, known


def mounting_above(ground: Reals) -> RigidTransform | None:
    """How a camera is mounted on what stands on this ground: its pose in a frame with z up that begins below it.

    Returns its pose above the plane nearest to those close by; None where there are too few. `ground`: points of the
    ground [N, 3] in the camera's optical frame, metres.
    """
    found = fitted_plane(ground[(ground[:, 2] < _NEAR_M) & (np.abs(ground[:, 0]) < _ASIDE_M)])
    return None if found is None else found.upright_from_camera


def _ground(points: Doubles, cells: NDArray[np.intp], grid: VoxelGrid) -> Floats:
    """Heights of the ground [X, Y], NaN where no pixel saw it."""
    shape = tuple(-(-count // _CELL) for count in grid.shape[:2])
    index = cells[:, 0] // _CELL * shape[1] + cells[:, 1] // _CELL
    count = np.bincount(index, minlength=shape[0] * shape[1])
    named = np.nonzero(count >= _LEAST_PIXELS)[0]
    unknown = np.full(grid.shape[:2], np.nan, np.float32)
    if len(named) < _LEAST_CELLS:
        return unknown
    height = np.asarray(median(points[:, 2], index, named))
    place = (np.stack(np.divmod(named, shape[1]), axis=-1) + 0.5) * _CELL * grid.voxel_size + grid.origin[:2]
    # A surface that rises, tilts, and curves along the road; places in units of ten metres.
    x, y = (place / 10.0).T
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y], axis=-1)
    start = np.array([np.median(height), *[0.0] * (terms.shape[1] - 1)])
    fit = least_squares(lambda c: terms @ c - height, start, loss="soft_l1", f_scale=0.05).x
    kept = np.abs(terms @ fit - height) < _OFF_SURFACE_M
    coarse = np.full(shape, np.nan, np.float32)
    coarse.ravel()[named[kept]] = height[kept]
    return coarse.repeat(_CELL, axis=0).repeat(_CELL, axis=1)[: grid.shape[0], : grid.shape[1]]


def _around(labels: Bytes) -> NDArray[Any]:
    """The largest label within two voxels of each column; 255 where there is none."""
    found = cv2.dilate(np.where(labels == INVALID, 0, labels).astype(np.uint8), np.ones((5, 5), np.uint8))
    return np.where(found > 0, found, INVALID).astype(np.uint8)
