"""Ground truth voxels of a frame, whatever recording they come from, and the regions they are scored in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, RigidTransform, VoxelGrid
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.density_model import reference_camera
from scene_completion_training.evaluation.kitti import SEMANTIC_KITTI_GRID, Window
from scene_completion_training.street_world import ground_truth

VISIBLE, OCCLUDED, ALL = "visible", "occluded", "all"
INTERIORS, OCCLUDED_AND_INTERIORS, ALL_AND_INTERIORS = "interiors", "occluded + interiors", "all + interiors"


@dataclass(frozen=True, eq=False)
class VoxelTruth:
    """Ground truth of one frame, arrays [X, Y, Z].

    `visible`, `occluded` and `interiors` are disjoint parts of what lies in the image. Interiors are the hidden insides
    of houses, cars and crowns, which no sensor ever sees. A convention says what is occupied there. There are more of
    them than of all other occupied voxels, and thickened surfaces reach into them. They count where the name of a
    region says so, and nowhere else. `all` is what is visible or occluded, as in every ground truth made of
    measurements. Calibrations, thresholds and priors are fitted to `all`.

    Attributes:
        grid_from_camera: Pose of the reference camera in it.
        label: uint8, SemanticKITTI's learning ids; 0 is free, 255 unknown.
        occupied: bool, holds anything.
        known: bool, the voxels that count; what is below the ground or was never measured does not.
        regions: Name -> bool.
    """

    grid: VoxelGrid
    grid_from_camera: RigidTransform
    label: NDArray[np.uint8]
    occupied: NDArray[np.bool_]
    known: NDArray[np.bool_]
    regions: dict[str, NDArray[np.bool_]]


def voxel_truth(sequence: PosedSequence, index: int) -> VoxelTruth | None:
    """Ground truth of a frame of the street world or of a KITTI window; None where the frame has none."""
    label, flags = sequence.asset(index, "voxel_label"), sequence.asset(index, "voxel_flags")
    if label is not None and flags is not None:
        return street_truth(label, flags, stored_grid(sequence))
    if sequence.asset(index, "ssc_label") is not None and reference_camera(sequence) == "image_2":
        return _measured_truth(sequence, index)
    return None


def street_truth(label: NDArray[np.uint8], flags: NDArray[np.uint8], grid: VoxelGrid) -> VoxelTruth:
    """Ground truth from the arrays that the street world stores, uint8 [X, Y, Z] each."""
    exact = ground_truth.VoxelTruth.from_flags(label, flags)
    hidden = exact.in_view & ~exact.visible
    regions = {
        VISIBLE: exact.visible,
        OCCLUDED: hidden & ~exact.interior,
        ALL: exact.visible | (hidden & ~exact.interior),
        INTERIORS: hidden & exact.interior,
        OCCLUDED_AND_INTERIORS: hidden,
        ALL_AND_INTERIORS: exact.in_view,
    }
    return VoxelTruth(grid, DEFAULT_GRID_FROM_CAMERA, label, exact.occupied, ~exact.below_ground, regions)


def stored_grid(sequence: PosedSequence) -> VoxelGrid:
    """The grid of a town's voxels; the street's where a recording names none."""
    return sequence.voxel_grid() if "voxel_grid" in sequence.provenance else DEFAULT_GRID


def _measured_truth(sequence: PosedSequence, index: int) -> VoxelTruth | None:
    """Voxels fused from labelled scans belong to the first frame of a window and know no insides."""
    if index != 0:
        return None
    window = Window(sequence.name, sequence)
    truth = window.voxel_truth()
    hidden = truth.in_view & ~truth.visible
    regions = {VISIBLE: truth.in_view & truth.visible, OCCLUDED: hidden, ALL: truth.in_view}
    label = np.asarray(sequence.asset(0, "ssc_label"), np.uint8)
    pose = window.velodyne_from_camera
    return VoxelTruth(SEMANTIC_KITTI_GRID, pose, label, truth.occupied, truth.known, regions)


def voxel_centres(grid: VoxelGrid, grid_from_camera: RigidTransform, asked: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Centres [N, 3] of the voxels asked for [X, Y, Z], in order, metres, optical frame of the reference camera."""
    centres = np.asarray(grid.origin) + (np.argwhere(asked) + 0.5) * grid.voxel_size
    return np.asarray(grid_from_camera.inverse().apply(centres), np.float32)
