"""Models that know the wall and what it looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import Calibration
from scene_completion_training.evaluation.density_model import IDENTITY, Observation
from scene_completion_training.evaluation.semantic_models import SemanticObservation
from tests.training.evaluation.one_wall import CAMERA, in_wall

CAR = COMMON_CLASSES.index("car")


@dataclass
class PaintedWall:
    """Knows the wall; its left half looks otherwise than its right half."""

    name: str = "painted wall"
    calibration: Calibration = IDENTITY

    @property
    def cutoffs(self) -> dict[str, float]:
        return {"σ > 0.5": 0.5}

    def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
        def codes(points: np.ndarray) -> np.ndarray:
            left = points[:, 0] < 1.0
            return np.stack([left, ~left], axis=-1).astype(np.float32)

        density = Observation(CAMERA, lambda points: 20.0 * in_wall(points).astype(np.float32))
        return SemanticObservation(density, codes, units=codes)


class PaintedScene:
    """Knows the wall, of which everything right of x = 1 m is a building, and has two numbers of its place as codes."""

    name = "painted scene"

    def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
        def codes(points: np.ndarray) -> np.ndarray:
            angle = np.where(points[:, 0] < 1.0, 0.3, 1.2) + 0.05 * np.sin(50.0 * points[:, 1])
            return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)

        return SemanticObservation(Observation(CAMERA, lambda points: 20.0 * in_wall(points).astype(np.float32)), codes)
