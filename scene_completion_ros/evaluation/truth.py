"""What is true of one image, whatever measured it: voxels around its camera, depth of its pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.semantic_classes import SEMANTIC_KITTI_TO_COMMON, ClassMap
from scene_completion_ros.evaluation.visibility import visible_voxels
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

FREE, UNKNOWN = 0, 255  # labels of what is nothing, and of what nobody knows
# Bits of the flags that are stored beside the labels of a rendered frame's voxels.
IN_VIEW, SEEN, BELOW_GROUND, INTERIOR = 1, 2, 4, 8
# Regions, parts of what lies in the image: `all` is what is visible or occluded.
VISIBLE, OCCLUDED, ALL = "visible", "occluded", "all"
# Regions that count the hidden insides of things, by their names alone.
INTERIORS, OCCLUDED_AND_INTERIORS, ALL_AND_INTERIORS = "interiors", "occluded + interiors", "all + interiors"

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class VoxelTruth:
    """Voxels of one frame, arrays [X, Y, Z]."""

    source: str  # what measured it, in words: "exact", "labelled LiDAR", "stereo"
    grid: VoxelGrid
    grid_from_camera: RigidTransform  # pose of the reference camera's optical frame in the grid
    occupied: Mask  # holds anything
    known: Mask  # the voxels that count; what is below the ground or was never measured does not
    in_view: Mask  # the centre lies in the image
    # What the camera sees, see `visible`, or what finds it out once somebody asks: that takes seconds. None where
    # nobody knows what hides what.
    sight: Mask | Callable[[], Mask] | None = None
    # The inside of a house, a car, a crown, which no sensor ever sees. A convention says what is occupied there. There
    # are more of them than of all other occupied voxels, and thickened surfaces reach into them. None where the truth
    # was measured.
    interior: Mask | None = None
    # uint8, SemanticKITTI's learning ids unless `class_map` is another's, `FREE` and `UNKNOWN`; None where it has no
    # classes.
    label: NDArray[np.uint8] | None = None
    class_map: ClassMap = SEMANTIC_KITTI_TO_COMMON  # from the ids of `label` to the common classes
    # Height of the ground in the grid, float32 [X, Y], metres, NaN where unknown; None where nobody knows it.
    ground: NDArray[np.float32] | None = None

    @property
    def free(self) -> Mask:
        """Known to hold nothing."""
        return np.asarray(self.known & ~self.occupied)

    @cached_property
    def visible(self) -> Mask | None:
        """The camera sees it; None where nobody knows what hides what."""
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
        return {
            **self.regions,
            INTERIORS: hidden & self.interior,
            OCCLUDED_AND_INTERIORS: hidden,
            ALL_AND_INTERIORS: self.in_view,
        }

    @property
    def counted(self) -> Mask:
        """Known voxels of the region `ALL`."""
        return self.known & self.everything

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The labels; a `GridError` where the truth has no classes."""
        if self.label is None:
            raise GridError(f"{self.source} has no classes", where="ground truth", cure="Name labelled recordings")
        return self.label

    def centres(self, wanted: Mask) -> NDArray[np.float32]:
        """Centres [N, 3] of wanted voxels [X, Y, Z], in order, metres, optical frame of the reference camera."""
        centres = np.asarray(self.grid.origin) + (np.argwhere(wanted) + 0.5) * self.grid.voxel_size
        return np.asarray(self.grid_from_camera.inverse().apply(centres), np.float32)


def exact_truth(
    label: NDArray[np.uint8],  # uint8 [X, Y, Z], 0 is free
    flags: NDArray[np.uint8],  # uint8 [X, Y, Z], bits `IN_VIEW`, `SEEN`, `BELOW_GROUND`, `INTERIOR`
    grid: VoxelGrid,
    # Pose of the reference camera's optical frame in the grid.
    grid_from_camera: RigidTransform = DEFAULT_GRID_FROM_CAMERA,
    ground: NDArray[np.float32] | None = None,  # height of the ground in the grid [X, Y], metres
    class_map: ClassMap = SEMANTIC_KITTI_TO_COMMON,  # from the ids of the labels to the classes that are scored
) -> VoxelTruth:
    """Truth of a rendered frame from the arrays that are stored of it."""
    in_view, seen, below, interior = ((flags & bit) > 0 for bit in (IN_VIEW, SEEN, BELOW_GROUND, INTERIOR))
    return VoxelTruth(
        "exact",
        grid,
        grid_from_camera,
        label > FREE,
        ~below,
        in_view,
        seen,
        interior=interior,
        label=label,
        class_map=class_map,
        ground=ground,
    )


def stored_flags(truth: VoxelTruth) -> NDArray[np.uint8]:
    """The masks of an exact truth as the bits that `exact_truth` reads, uint8 [X, Y, Z]."""
    masks = ((IN_VIEW, truth.in_view), (SEEN, truth.visible), (BELOW_GROUND, ~truth.known), (INTERIOR, truth.interior))
    flags = np.zeros(truth.grid.shape, np.uint8)
    for bit, mask in masks:
        flags[mask] |= bit
    return flags


def labelled_truth(
    source: str,
    label: NDArray[np.uint8],  # uint8 [X, Y, Z], `FREE` and `UNKNOWN` among them
    invalid: Mask,  # voxels that do not count for another reason, bool [X, Y, Z]
    grid: VoxelGrid,
    grid_from_camera: RigidTransform,
    camera: Camera,  # whose image says what is in view
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
    depth: NDArray[np.float32]


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
