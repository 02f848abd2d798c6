"""Occupancy fused from the measured depth of a drive, as voxels of a frame: what is known of it without any label."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data.motion_stereo import depth_meter
from scene_completion_training.data.stereo_voxels import OCCUPIED, stereo_evidence
from scene_completion_training.viewpoint import STREET_AHEAD_M


def stereo_truths(sequence: PosedSequence, every: int = 1) -> Iterator[VoxelTruth]:
    """Frames of a drive on the default grid; known is what has evidence, all of it that lies in the image counts."""
    meter = depth_meter(sequence, STREET_AHEAD_M)
    centres = DEFAULT_GRID_FROM_CAMERA.inverse().apply(DEFAULT_GRID.centres().reshape(-1, 3))
    in_view = np.asarray(sequence.cameras[meter.camera].project(centres)[1]).reshape(DEFAULT_GRID.shape)
    for index in range(0, len(sequence), every):
        score, known = stereo_evidence(sequence, index, DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, meter)
        occupied = known & (score > OCCUPIED)
        yield VoxelTruth("stereo", DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, occupied, known, in_view)
