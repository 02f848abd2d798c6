"""What stereo knows of the voxels before a camera: the ground, what stands close by, and what a drive sees of them."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median
from scipy.optimize import least_squares

from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.arrays import Bytes, Doubles, Floats, Mask
from scene_completion_training.data.motion_stereo import depth_meter
from scene_completion_training.data.voxel_evidence import FusionSettings, fuse_occupancy, fusion_views
from scene_completion_training.viewpoint import Volume

SKY = len(COMMON_CLASSES)  # class of pixels that no voxel can hold
OF_NO_CLASS = 254  # a voxel that is occupied, nobody knows by what
OCCUPIED = 0.5  # share of the evidence that has to speak for "occupied"
# A place is what its pixel sees if their depths differ by no more, metres and a share of the depth.
_SAME_M, _SAME = 0.4, 0.05
GROUND_CLASSES = tuple(COMMON_CLASSES.index(name) for name in ("road", "sidewalk", "terrain"))
_FARTHEST_GROUND_M = 40.0
_SURE_M = 0.15  # standard deviation of depth up to which a voxel of 0.2 m is known to hold what its pixel sees
_CELL = 4  # voxels to a side of the cells whose median height counts
# The ground that a car stands on: no farther ahead and to the sides, of so many points at least.
_NEAR_M, _ASIDE_M, _LEAST_POINTS = 18.0, 4.0, 60
_LEAST_PIXELS = 6
_LEAST_CELLS = 12
_OFF_SURFACE_M = 0.25  # cells farther from the fitted surface hold no ground: a hedge, a wrong match


def voxels_of_pixels(
    depth: Floats,  # z-depth [H, W], metres, 0 where unknown
    deviation: Floats,  # its standard deviation [H, W], metres
    classes: Bytes,  # common classes [H, W] of the pixels, `SKY`, or 255
    camera: Camera,  # camera of the three
    grid: VoxelGrid,  # the voxels
    grid_from_camera: RigidTransform,  # pose of the camera in them; z points up
) -> tuple[Bytes, Floats]:
    """Labels of voxels that a measured depth knows, and heights of the ground.

    A voxel is occupied if it holds ground, or a surface that was measured to within a voxel. All else is unknown. One
    pair sees free space as well, but no far surface to within a voxel: whoever learns from that learns that nothing
    stands anywhere. Returns labels [X, Y, Z]: a class, 255 unknown. Heights of the ground [X, Y] in the grid, metres;
    NaN where nobody knows it.
    """
    v, u = np.nonzero(depth > 0.0)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.matrix).T
    points = grid_from_camera.apply(rays * depth[v, u, None])
    cells = np.floor((points - np.asarray(grid.origin)) / grid.voxel_size).astype(int)
    inside = ((cells >= 0) & (cells < grid.shape)).all(axis=1)
    points, cells, of_pixel = points[inside], cells[inside], (v[inside], u[inside])
    seen = classes[of_pixel]
    flat = np.isin(seen, GROUND_CLASSES) & (depth[of_pixel] < _FARTHEST_GROUND_M)
    ground = _ground(points[flat], cells[flat], grid)
    label = np.full(grid.shape, INVALID, np.uint8)
    sure = ~flat & (deviation[of_pixel] < _SURE_M) & (seen != INVALID) & (seen != SKY)
    label[tuple(cells[sure].T)] = seen[sure]
    of_column = np.full(grid.shape[:2], INVALID, np.uint8)
    of_column[tuple(cells[flat][:, :2].T)] = seen[flat]
    of_column = np.where(of_column == INVALID, _around(of_column), of_column)
    height = np.floor((ground - grid.origin[2]) / grid.voxel_size)
    x, y = np.nonzero((of_column != INVALID) & (height >= 0) & (height < grid.shape[2]))
    z = height[x, y].astype(int)
    label[x, y, z] = of_column[x, y]
    return label, ground


def voxels_of_drive(
    sequence: PosedSequence,
    index: int,
    seen: Bytes,  # labels [X, Y, Z] of the frame itself, which count first, see `voxels_of_pixels`
    depth: Floats,  # z-depth [H, W] of the frame, metres, 0 where unknown
    classes: Bytes,  # common classes [H, W] of its pixels, `SKY`, or 255
    camera: Camera,  # camera of both
    volume: Volume,  # the space that is completed
    grid_from_left: RigidTransform,  # pose of the left camera in its grid
) -> Bytes:
    """Labels of voxels that several frames of a drive know, hidden ones among them.

    Returns labels [X, Y, Z]: 0 free, a class or `OF_NO_CLASS`, 255 unknown.
    """
    share, known = _evidence(sequence, index, volume, grid_from_left)
    label = np.where(known, EMPTY, INVALID).astype(np.uint8)
    occupied = np.nonzero(known & (share > OCCUPIED))
    places = grid_from_left.inverse().apply(volume.grid.centres()[occupied].astype(np.float64))
    pixels, inside = camera.project(places)
    nearest = np.round(np.where(inside[:, None], pixels, 0.0)).astype(int)
    column, row = np.minimum(nearest, (camera.width - 1, camera.height - 1)).T
    visible = inside & (np.abs(depth[row, column] - places[:, 2]) < _SAME_M + _SAME * places[:, 2])
    label[occupied] = np.where(visible & (classes[row, column] < SKY), classes[row, column], OF_NO_CLASS)
    return np.where(seen != INVALID, seen, label)


def _evidence(
    sequence: PosedSequence, index: int, volume: Volume, grid_from_left: RigidTransform
) -> tuple[Floats, Mask]:
    """Evidence of a frame as for training: its share 0..1 for "occupied", and whether there is any; each [X, Y, Z]."""
    grid, meter = volume.grid, depth_meter(sequence, volume.ahead)
    grid_from_forward = grid_from_left @ OPTICAL_FROM_FORWARD
    around = fusion_views(sequence, index, meter.camera, meter, FusionSettings(), volume)
    views = [replace(view, grid_from_camera=grid_from_forward @ view.grid_from_camera) for view in around]
    generator = np.random.default_rng(0)
    centres, target, _ = fuse_occupancy(
        views, grid, free_samples=int(np.prod(grid.shape)), generator=generator, depths=volume.fused_depth
    )
    voxels = tuple(np.moveaxis(grid.index_of(centres)[0], -1, 0))
    score, known = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.bool_)
    score[voxels], known[voxels] = target, True
    return score, known


def mounting_above(ground: NDArray[np.floating[Any]]) -> RigidTransform | None:
    """How a camera is mounted on what stands on this ground: its pose in a frame with z up that begins below it.

    Returns its pose above the plane nearest to those close by; None where there are too few. `ground`: points of the
    ground [N, 3] in the camera's optical frame, metres.
    """
    x, y, z = ground[(ground[:, 2] < _NEAR_M) & (np.abs(ground[:, 0]) < _ASIDE_M)].T
    if len(x) < _LEAST_POINTS:
        return None
    terms = np.stack([x, z, np.ones_like(x)], axis=-1)
    start = np.array([0.0, 0.0, np.median(y)])
    aside, ahead, below = least_squares(lambda c: terms @ c - y, start, loss="soft_l1", f_scale=0.03).x
    length = np.sqrt(aside**2 + ahead**2 + 1.0)
    up = np.array([aside, -1.0, ahead]) / length
    forward = np.array([0.0, 0.0, 1.0]) - up[2] * up
    forward /= np.linalg.norm(forward)
    return RigidTransform(np.stack([forward, np.cross(up, forward), up]), np.array([0.0, 0.0, below / length]))


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
    terms = _quadratic(place)
    start = np.array([np.median(height), *[0.0] * (terms.shape[1] - 1)])
    fit = least_squares(lambda c: terms @ c - height, start, loss="soft_l1", f_scale=0.05).x
    kept = np.abs(terms @ fit - height) < _OFF_SURFACE_M
    coarse = np.full(shape, np.nan, np.float32)
    coarse.ravel()[named[kept]] = height[kept]
    return coarse.repeat(_CELL, axis=0).repeat(_CELL, axis=1)[: grid.shape[0], : grid.shape[1]]


def _quadratic(place: Doubles) -> Doubles:
    """Terms [N, 5] of a surface that rises, tilts, and curves along the road; places in units of ten metres."""
    x, y = (place / 10.0).T
    return np.stack([np.ones_like(x), x, y, x * x, x * y], axis=-1)


def _around(labels: Bytes) -> NDArray[Any]:
    """The largest label within two voxels of each column; 255 where there is none."""
    known = np.where(labels == INVALID, 0, labels).astype(np.uint8)
    found = cv2.dilate(known, np.ones((5, 5), np.uint8))
    return np.where(found > 0, found, INVALID).astype(np.uint8)
