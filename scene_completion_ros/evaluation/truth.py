"""What is true of one image, whatever measured it: voxels around its camera, depth of its pixels.

Which voxels of a ground truth the camera sees, and which lie behind obstacles, no model decides. The straight line from
the camera to the centre of a voxel alone is too strict a test. At a grazing angle it runs through metres of the
ground's own voxels, and 95 % of the occupied voxels of a street count as hidden. Here a voxel is seen if the line to
its centre, or to that of one of its six faces, passes no other occupied voxel. An occupied voxel is visible also where
it touches (26 neighbours) a seen voxel that is not occupied. Of the voxels that a LiDAR next to the camera hits, three
in four are then visible; the rest are mostly foliage. Voxels of unknown content are transparent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numba
import numpy as np
from scipy.ndimage import binary_dilation

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Ints, Mask
from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.semantic_classes import SEMANTIC_KITTI_TO_COMMON, ClassMap
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

FREE, UNKNOWN = 0, 255  # labels of what is nothing, and of what is unknown
# Bits of the flags that are stored with the labels of a rendered frame's voxels.
IN_VIEW, SEEN, BELOW_GROUND, INTERIOR = 1, 2, 4, 8
# Regions, parts of what lies in the image: `all` is what is visible or occluded.
VISIBLE, OCCLUDED, ALL = "visible", "occluded", "all"
# Regions that count the hidden insides of things, by their names alone.
INTERIORS, OCCLUDED_AND_INTERIORS, ALL_AND_INTERIORS = "interiors", "occluded + interiors", "all + interiors"


@dataclass(frozen=True, eq=False)
class VoxelTruth:
    """Voxels of one frame, arrays [X, Y, Z]."""

    source: str  # what measured it, in words: "exact", "labelled LiDAR", "stereo"
    grid: VoxelGrid
    grid_from_camera: RigidTransform  # pose of the reference camera's optical frame in the grid
    occupied: Mask  # holds anything
    known: Mask  # the voxels that count; what is below the ground or was never measured does not
    in_view: Mask  # the centre lies in the image
    # What the camera sees, see `visible`, or what computes it when it is needed: that takes seconds. None where it is
    # unknown what hides what.
    sight: Mask | Callable[[], Mask] | None = None
    # The inside of a house, a car, a crown, which no sensor ever sees. What is occupied there is a convention. There
    # are more of them than of all other occupied voxels, and thickened surfaces reach into them. None where the truth
    # was measured.
    interior: Mask | None = None
    # uint8, SemanticKITTI's learning ids unless `class_map` is another's, `FREE` and `UNKNOWN`; None where it has no
    # classes.
    label: Bytes | None = None
    class_map: ClassMap = SEMANTIC_KITTI_TO_COMMON  # from the ids of `label` to the common classes
    # Height of the ground in the grid, float32 [X, Y], metres, NaN where unknown; None where all of it is.
    ground: Floats | None = None

    @property
    def free(self) -> Mask:
        """Known to hold nothing."""
        return np.asarray(self.known & ~self.occupied)

    @cached_property
    def visible(self) -> Mask | None:
        """The camera sees it; None where it is unknown what hides what."""
        return self.sight() if callable(self.sight) else self.sight

    @property
    def everything(self) -> Mask:
        """The region `ALL`: where no insides are known, whatever is in view."""
        return self.in_view if self.interior is None else self.regions[ALL]

    @cached_property
    def regions(self) -> dict[str, Mask]:
        """The parts that are scored, of known voxels and others: `ALL`, where it is known also `VISIBLE`, `OCCLUDED`.

        Insides of things are in none of them. Calibrations, thresholds and priors are fitted to `ALL`.
        """
        outside = self.in_view if self.interior is None else self.in_view & ~self.interior
        if self.visible is None:
            return {ALL: outside}
        visible, occluded = self.in_view & self.visible, outside & ~self.visible
        return {VISIBLE: visible, OCCLUDED: occluded, ALL: visible | occluded}

    @cached_property
    def regions_with_interiors(self) -> dict[str, Mask]:
        """The regions, and those in which insides of things count, where these are known."""
        if self.interior is None or self.visible is None:
            return self.regions
        hidden = self.in_view & ~self.visible
        inside = hidden & self.interior
        return self.regions | {INTERIORS: inside, OCCLUDED_AND_INTERIORS: hidden, ALL_AND_INTERIORS: self.in_view}

    @property
    def counted(self) -> Mask:
        """Known voxels of the region `ALL`."""
        return self.known & self.everything

    @property
    def labels(self) -> Bytes:
        """The labels; a `GridError` where the truth has no classes."""
        if self.label is None:
            raise GridError(f"{self.source} has no classes", where="ground truth", cure="Name labelled recordings")
        return self.label

    def centres(self, wanted: Mask) -> Floats:
        """Centres [N, 3] of wanted voxels [X, Y, Z], in order, metres, optical frame of the reference camera."""
        centres = np.asarray(self.grid.origin) + (np.argwhere(wanted) + 0.5) * self.grid.voxel_size
        return np.asarray(self.grid_from_camera.inverse().apply(centres), np.float32)


def exact_truth(
    label: Bytes,  # uint8 [X, Y, Z], 0 is free
    flags: Bytes,  # uint8 [X, Y, Z], bits `IN_VIEW`, `SEEN`, `BELOW_GROUND`, `INTERIOR`
    grid: VoxelGrid,
    # Pose of the reference camera's optical frame in the grid.
    grid_from_camera: RigidTransform = DEFAULT_GRID_FROM_CAMERA,
    ground: Floats | None = None,  # height of the ground in the grid [X, Y], metres
    class_map: ClassMap = SEMANTIC_KITTI_TO_COMMON,  # from the ids of the labels to the classes that are scored
) -> VoxelTruth:
    """Truth of a rendered frame from the arrays that are stored of it."""
    in_view, seen, below, interior = ((flags & bit) > 0 for bit in (IN_VIEW, SEEN, BELOW_GROUND, INTERIOR))
    voxels = grid, grid_from_camera, label > FREE, ~below, in_view, seen, interior
    return VoxelTruth("exact", *voxels, label=label, class_map=class_map, ground=ground)


def stored_flags(truth: VoxelTruth) -> Bytes:
    """The masks of an exact truth as the bits that `exact_truth` reads, uint8 [X, Y, Z]."""
    masks = ((IN_VIEW, truth.in_view), (SEEN, truth.visible), (BELOW_GROUND, ~truth.known), (INTERIOR, truth.interior))
    flags = np.zeros(truth.grid.shape, np.uint8)
    for bit, mask in masks:
        flags[mask] |= bit
    return flags


def labelled_truth(
    source: str,
    label: Bytes,  # uint8 [X, Y, Z], `FREE` and `UNKNOWN` among them
    invalid: Mask,  # voxels that do not count for another reason, bool [X, Y, Z]
    grid: VoxelGrid,
    grid_from_camera: RigidTransform,
    camera: Camera,  # whose image defines what is in view
    class_map: ClassMap = SEMANTIC_KITTI_TO_COMMON,  # from the ids of the labels to the common classes
) -> VoxelTruth:
    """Truth of measured voxels with classes, which know no insides; what hides what follows from them."""
    occupied, known = (label != FREE) & (label != UNKNOWN), (label != UNKNOWN) & ~invalid
    in_view = np.asarray(camera.project(grid_from_camera.inverse().apply(grid.centres()))[1])
    sight = partial(visible_voxels, occupied, grid_from_camera.translation, grid, known & in_view)
    return VoxelTruth(source, grid, grid_from_camera, occupied, known, in_view, sight, label=label, class_map=class_map)


@dataclass(frozen=True, eq=False)
class DepthTruth:
    """Depth of one frame."""

    camera: Camera
    # float32 [H, W], metres along the optical axis; 0 where nothing is known, infinite in the sky.
    depth: Floats


@dataclass(frozen=True, eq=False)
class FrameTruth:
    """What is known of a frame; either may be missing."""

    voxels: VoxelTruth | None
    depth: DepthTruth | None


class TruthSource(Protocol):
    """Where the truth of a recording's images comes from."""

    name: str  # for tables

    def at(self, stamp_ns: int, frame_id: str) -> FrameTruth | None:
        """Truth of an image, by its stamp and frame; None where there is none."""


_FACE = 0.5 + 1e-4  # just outside the voxel, so that the line to a face does not slip through the voxel's neighbours
SIGHT_POINTS = np.concatenate([np.zeros((1, 3)), _FACE * np.eye(3), -_FACE * np.eye(3)])  # [7, 3], voxels


def seen_voxels(
    occupied: Mask,  # ground truth, bool [X, Y, Z]
    # Optical centre in the grid frame, float64 [3], metres. It may lie outside the grid.
    camera_position: Doubles,
    grid: VoxelGrid,
    wanted: Mask,  # voxels to look at, bool [X, Y, Z]; the others are reported as not seen
) -> Mask:
    """Voxels [X, Y, Z] to whose centre or face centres a line from the camera passes no other occupied voxel."""
    start = (camera_position - np.asarray(grid.origin)) / grid.voxel_size
    return np.asarray(_seen(np.ascontiguousarray(occupied), np.ascontiguousarray(wanted), start), dtype=bool)


def visible_voxels(occupied: Mask, camera_position: Doubles, grid: VoxelGrid, wanted: Mask) -> Mask:
    """Voxels that count as visible: the seen ones, and occupied ones that touch a seen voxel that is not occupied.

    All others lie behind obstacles. Arguments and result as in `seen_voxels`.
    """
    seen = seen_voxels(occupied, camera_position, grid, wanted | grown(wanted & occupied))
    return (seen | (occupied & grown(seen & ~occupied))) & wanted


def grown(mask: Mask) -> Mask:
    """The mask [X, Y, Z] and its 26 neighbours."""
    return np.asarray(binary_dilation(mask, np.ones((3, 3, 3))))


def _line_is_blocked(
    occupied: Mask, start: Doubles, end: Doubles, own: tuple[int, int, int], integers: Ints, numbers: Doubles
) -> bool:
    """Walk from voxel to voxel along a line (in units of voxels) until it leaves the grid or reaches `end` or `own`.

    Amanatides and Woo, "A Fast Voxel Traversal Algorithm for Ray Tracing" (Eurographics 1987). `integers` and `numbers`
    [2, 3] are scratch space: allocating it for every line would take most of the time.
    """
    first, last = 0.0, 1.0  # the part of the line inside the grid
    for axis in range(3):
        size = occupied.shape[axis]
        direction = end[axis] - start[axis]
        if direction == 0.0:
            if not 0.0 <= start[axis] < size:
                return False
        else:
            low, high = -start[axis] / direction, (size - start[axis]) / direction
            first, last = max(first, min(low, high)), min(last, max(low, high))
    if first >= last:
        return False
    voxel, step = integers[0], integers[1]
    crossing, stride = numbers[0], numbers[1]  # where the line leaves the voxel along each axis, as its fraction
    for axis in range(3):
        direction = end[axis] - start[axis]
        position = int(np.floor(start[axis] + direction * first))
        step[axis] = 1 if direction > 0.0 else -1
        # A line that enters through the upper face starts on the far side of the last voxel.
        voxel[axis] = min(max(position, 0), occupied.shape[axis] - 1)
        border = voxel[axis] + (1 if direction > 0.0 else 0)
        crossing[axis] = (border - start[axis]) / direction if direction != 0.0 else np.inf
        stride[axis] = abs(1.0 / direction) if direction != 0.0 else np.inf
    while not (voxel[0] == own[0] and voxel[1] == own[1] and voxel[2] == own[2]):
        if occupied[voxel[0], voxel[1], voxel[2]]:
            return True
        axis = 0
        if crossing[1] < crossing[axis]:
            axis = 1
        if crossing[2] < crossing[axis]:
            axis = 2
        if crossing[axis] >= last:
            return False
        crossing[axis] += stride[axis]
        voxel[axis] += step[axis]
        if not 0 <= voxel[axis] < occupied.shape[axis]:
            return False
    return False


def _seen_everywhere(occupied: Mask, wanted: Mask, start: Doubles) -> Mask:
    seen = np.zeros(occupied.shape, dtype=np.bool_)
    end, integers, numbers = np.empty(3), np.empty((2, 3), dtype=np.int64), np.empty((2, 3))
    for i in range(occupied.shape[0]):
        for j in range(occupied.shape[1]):
            for k in range(occupied.shape[2]):
                if not wanted[i, j, k]:
                    continue
                for point in SIGHT_POINTS:
                    end[0], end[1], end[2] = i + 0.5 + point[0], j + 0.5 + point[1], k + 0.5 + point[2]
                    if not _blocked(occupied, start, end, (i, j, k), integers, numbers):
                        seen[i, j, k] = True
                        break
    return seen


_blocked = numba.njit(_line_is_blocked)  # compiled at the first call
_seen = numba.njit(_seen_everywhere)
