"""Occupancy fused from the stereo depth of a drive, as voxels of a frame: what is known of it without any label."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import (
    DEFAULT_GRID,
    DEFAULT_GRID_FROM_CAMERA,
    OPTICAL_FROM_FORWARD,
    RigidTransform,
    VoxelGrid,
)
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data.stereo import stereo_pair
from scene_completion_training.data.voxel_evidence import DepthView, FusionSettings, fuse_occupancy, fusion_views
from scene_completion_training.evaluation.controls import DepthSource, measured_depth
from scene_completion_training.evaluation.voxel_truth import ALL, VoxelTruth
from scene_completion_training.viewpoint import Volume

OCCUPIED = 0.5
"""Share of the evidence that has to speak for "occupied"."""
_FREE_SAMPLES = 3_000_000  # voxels tested for free space: most of a grid
_UNKNOWN = 255


def stereo_evidence(
    sequence: PosedSequence,
    index: int,
    grid: VoxelGrid,
    grid_from_left: RigidTransform,
    depth: DepthSource = measured_depth,
    volume: Volume | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Evidence of a frame as for training: its share 0..1 for "occupied", and whether there is any; each [X, Y, Z].

    Args:
        sequence: A drive with a stereo pair.
        grid_from_left: Pose of the left camera in the grid.
        depth: Gives the left camera's stereo depth.
        volume: The space that is completed; a street's if left out.
    """
    volume = volume or Volume()
    left, _, baseline = stereo_pair(sequence)
    grid_from_forward = grid_from_left @ OPTICAL_FROM_FORWARD
    focal_baseline = sequence.cameras[left].fx * baseline
    views = [
        DepthView(view.depth, view.matrix, grid_from_forward @ view.grid_from_camera, view.focal_baseline, view.trust)
        for view in fusion_views(
            sequence, index, left, partial(depth, sequence), focal_baseline, FusionSettings(), volume
        )
    ]
    generator = np.random.default_rng(0)
    centres, target, _ = fuse_occupancy(
        views, grid, free_samples=_FREE_SAMPLES, generator=generator, depths=volume.fused_depth
    )
    voxels = tuple(np.moveaxis(grid.index_of(centres)[0], -1, 0))
    score, known = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.bool_)
    score[voxels], known[voxels] = target, True
    return score, known


def stereo_truths(sequence: PosedSequence, every: int = 1) -> Iterator[VoxelTruth]:
    """Frames of a drive on the default grid; known is what has evidence, all of it that lies in the image counts."""
    left, _, _ = stereo_pair(sequence)
    centres = DEFAULT_GRID_FROM_CAMERA.inverse().apply(DEFAULT_GRID.centres().reshape(-1, 3))
    in_view = np.asarray(sequence.cameras[left].project(centres)[1]).reshape(DEFAULT_GRID.shape)
    depth = cache(measured_depth)
    for index in range(0, len(sequence), every):
        score, known = stereo_evidence(sequence, index, DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, depth)
        occupied = known & (score > OCCUPIED)
        label = np.where(known, occupied, np.uint8(_UNKNOWN)).astype(np.uint8)
        yield VoxelTruth(DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, label, occupied, known, {ALL: in_view})
