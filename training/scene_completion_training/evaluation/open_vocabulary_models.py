"""What is asked for words beside trained fields (`FeatureFieldModel`): a deployed student, and controls to beat."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import EMPTY, INVALID
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.feature_space import feature_space_for
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_training.data.student_units import DeployedUnits
from scene_completion_training.evaluation.checkpoints import CanonicalImages
from scene_completion_training.evaluation.density_model import VOXEL_EDGE, DensityModel
from scene_completion_training.evaluation.geometry import voxel_frames
from scene_completion_training.evaluation.open_vocabulary import LabelSet
from scene_completion_training.evaluation.semantic_evaluation import voxel_classes
from scene_completion_training.evaluation.semantic_models import SemanticObservation, in_chunks
from scene_completion_training.foundation.dense_extractor import DenseExtractor
from scene_completion_training.foundation.feature_lifter import FeatureLifter, TokenMaps


class DeployedFeatures:
    """A student bundle, read in the space that a bank's texts lie in: its own encoder, its units, its linear map.

    Raises VocabularyError where it has none.
    """

    def __init__(self, bundle: StudentBundle, bank: TextBank, density: DensityModel, name: str) -> None:
        self.name = name
        self._space = feature_space_for(bundle.feature_spaces, bank, bundle.name)
        self._density = density
        self._units = DeployedUnits(bundle)

    def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
        """Encode the reference camera's image of a frame."""
        camera = reference_camera(sequence)
        units = self._units.observe(sequence.image(index, camera), sequence.cameras[camera])
        return SemanticObservation(
            self._density.observe(sequence, index),
            lambda points: self._space.features(units(points)).astype(np.float32),
        )


class LiftedPixels:
    """A control, 2D only: every point has the teacher's feature of the pixel it projects to, whatever lies before it.

    Args:
        teacher: Its features are text-aligned.
        density: Whose density says what is occupied.
        cell: Edge of the square of pixels that a feature of the teacher covers.
        camera: The canonical camera of the models that it stands beside; points outside its image have no feature.
    """

    def __init__(self, teacher: DenseExtractor, density: DensityModel, cell: int, camera: Camera, name: str) -> None:
        self.name = name
        self._teacher, self._density, self._cell = teacher, density, cell
        self._lifter = FeatureLifter(camera, VOXEL_EDGE)
        self._image = CanonicalImages(camera, half_resolution=False)

    def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
        """Compute the features of the reference camera's image of a frame."""
        image = self._image(sequence, index, reference_camera(sequence))[None]
        tokens = self._teacher.features(image, self._cell).float().cpu()
        maps = {self.name: TokenMaps(tokens, torch.zeros(1, 2), self._cell)}

        def features(points: Tensor) -> Tensor:
            return self._lifter(points, maps, torch.eye(4)[None], surface=None)[self.name].mean

        return SemanticObservation(self._density.observe(sequence, index), lambda points: in_chunks(features, points))


class ClassPrior:
    """A control that knows no image: every point is of the class that most labelled voxels are of, see `most_frequent`.

    All points have one feature, the embedding [D] of a phrase of that class. Any word then ranks them alike, and its
    average precision is the share of positives.
    """

    name = "class prior"

    def __init__(self, row: NDArray[np.float32], density: DensityModel) -> None:
        self._row, self._density = row, density

    def observe(self, sequence: PosedSequence, index: int) -> SemanticObservation:
        """The same features at every frame."""
        return SemanticObservation(
            self._density.observe(sequence, index), lambda points: np.tile(self._row, (len(points), 1))
        )


def most_frequent(recordings: Sequence[PosedSequence], label_set: LabelSet, phrased: Sequence[int]) -> int:
    """The most frequent class of labelled voxels in view, among those that have phrases.

    Raises ConfigurationError where no voxel is labelled.
    """
    counts = np.zeros(len(label_set.names), np.int64)
    for frame in voxel_frames(recordings):
        truth = frame.truth.voxels
        assert truth is not None
        classes = voxel_classes(truth, label_set.class_map)[truth.counted]
        counts += np.bincount(classes[(classes != EMPTY) & (classes != INVALID)] - 1, minlength=len(counts))
    if not counts.any():
        what = "no voxel is labelled"
        cure = "Name recordings with ground truth"
        raise ConfigurationError(what, where=", ".join(sequence.name for sequence in recordings), cure=cure)
    return max(phrased, key=lambda number: int(counts[number]))
