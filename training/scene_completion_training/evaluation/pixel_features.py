"""Features of a 2D model at points in space: those of the pixels that they project to, whatever lies before them."""

from __future__ import annotations

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_training.evaluation.checkpoints import CanonicalImages
from scene_completion_training.evaluation.density_model import VOXEL_EDGE
from scene_completion_training.evaluation.semantic_models import CodeFunction, in_chunks
from scene_completion_training.foundation.feature_lifter import FeatureLifter, TokenMaps
from scene_completion_training.foundation.targets import FeatureExtractor

_MODEL = "2D"


class PixelFeatures:
    """What a 2D model says of points.

    Args:
        cell: Edge of the square of pixels that a feature covers.
        camera: The canonical camera; points outside its image have no feature.
    """

    def __init__(self, extractor: FeatureExtractor, cell: int, camera: Camera) -> None:
        self._extractor, self._cell = extractor, cell
        self._lifter = FeatureLifter(camera, VOXEL_EDGE)
        self._image = CanonicalImages(camera, half_resolution=False)

    def observe(self, sequence: PosedSequence, index: int) -> CodeFunction:
        """Features [N, D] of points [N, 3], metres, optical frame of a frame's reference camera; zeros for none."""
        image = self._image(sequence, index, reference_camera(sequence))[None]
        tokens = self._extractor.features(image, self._cell).float().cpu()
        maps = {_MODEL: TokenMaps(tokens, torch.zeros(1, 2), self._cell)}

        def features(points: Tensor) -> Tensor:
            return self._lifter(points, maps, torch.eye(4)[None], surface=None)[_MODEL].mean

        return lambda points: in_chunks(features, points)
