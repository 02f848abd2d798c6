"""Occupancy fused from the measured depth of a drive, as voxels of a frame: what is known of it without any label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import (
    DEFAULT_GRID,
    DEFAULT_GRID_FROM_CAMERA,
    OPTICAL_FROM_FORWARD,
    RigidTransform,
    VoxelGrid,
)
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data.motion_stereo import DepthMeter, depth_meter
from scene_completion_training.data.voxel_evidence import FusionSettings, fuse_occupancy, fusion_views
from scene_completion_training.viewpoint import STREET_AHEAD_M, Volume

OCCUPIED = 0.5
"""Share of the evidence that has to speak for "occupied"."""
_FREE_SAMPLES = 3_000_000  # voxels tested for free space: most of a grid


def stereo_evidence(
    sequence: PosedSequence,
    index: int,
    grid: VoxelGrid,
    grid_from_left: RigidTransform,
    meter: DepthMeter | None = None,
    volume: Volume | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Evidence of a frame as for training: its share 0..1 for "occupied", and whether there is any; each [X, Y, Z].

    Args:
        grid_from_left: Pose of the camera whose depth is measured in the grid.
        meter: Measures that of the drive; by default what `depth_meter` chooses.
        volume: The space that is completed; a street's if left out.
    """
    volume = volume or Volume()
    meter = meter or depth_meter(sequence, volume.ahead)
    grid_from_forward = grid_from_left @ OPTICAL_FROM_FORWARD
    views = [
        replace(view, grid_from_camera=grid_from_forward @ view.grid_from_camera)
        for view in fusion_views(sequence, index, meter.camera, meter, FusionSettings(), volume)
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
    meter = depth_meter(sequence, STREET_AHEAD_M)
    centres = DEFAULT_GRID_FROM_CAMERA.inverse().apply(DEFAULT_GRID.centres().reshape(-1, 3))
    in_view = np.asarray(sequence.cameras[meter.camera].project(centres)[1]).reshape(DEFAULT_GRID.shape)
    for index in range(0, len(sequence), every):
        score, known = stereo_evidence(sequence, index, DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, meter)
        occupied = known & (score > OCCUPIED)
        yield VoxelTruth("stereo", DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, occupied, known, in_view)
