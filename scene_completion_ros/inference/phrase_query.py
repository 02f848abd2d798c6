"""Voxels that answer words: cosines of their features with phrases, and labels by them.

A voxel's score for a class is the largest cosine of its feature with the phrases of the class. The background counts as
one more class. The voxel has the label of its best class. It is ``unknown`` where that is the background or not ahead
of the second best by a margin. It is ``unknown``, too, where the feature is zero or not finite. The confidence is the
softmax probability of the best, classes and background together, at a temperature; 0 where there is no feature.

The query computes nothing in the feature space, see `FeatureSpace.folded`. For each voxel it computes, beside its label
units, a row a phrase and a triangle for the norm.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.feature_space import FeatureSpace
from scene_completion_ros.inference.field_kernels import TILE
from scene_completion_ros.inference.text_bank import BACKGROUND, Vocabulary
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches


@dataclass(frozen=True, eq=False)
class FoldedVocabulary:
    """A vocabulary, folded into the label units of a student: what the kernels read."""

    vocabulary: Vocabulary
    space: FeatureSpace
    # weight, bias: float32 [P, E] and [P], rows of phrases, and of zeros behind them up to a multiple of `TILE`.
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    group: NDArray[np.int32]  # int32 [R], class 0..K-1 of each row, rising; K for the background
    # root, root_bias: float32 [Q, E] and [Q], the upper triangle whose product with the units has the feature's norm,
    # without its last row, padded as the others.
    root: NDArray[np.float32]
    root_bias: NDArray[np.float32]
    rest: np.float32  # square of that last row, float32: the part of the norm that no unit changes
    temperature: float  # of the softmax

    @classmethod
    def of(cls, vocabulary: Vocabulary, space: FeatureSpace) -> "FoldedVocabulary":
        """Folds a vocabulary whose rows lie in a space."""
        group = np.where(vocabulary.group == BACKGROUND, len(vocabulary.names), vocabulary.group).astype(np.int32)
        order = np.argsort(group, kind="stable")
        weight, bias, root = space.folded(vocabulary.rows[order])
        units = space.weight.shape[1]
        used = min(units, space.dimension)  # below, the root is zero
        return cls(
            vocabulary=vocabulary,
            space=space,
            weight=padded(weight),
            bias=padded(bias),
            group=group[order],
            root=padded(root[:used, :units]),
            root_bias=padded(root[:used, units]),
            rest=np.float32(root[units, units] ** 2),
            temperature=space.temperature,
        )

    @property
    def classes(self) -> int:
        """K, which is also the label of ``unknown``."""
        return len(self.vocabulary.names)

    @property
    def groups(self) -> int:
        """K, or K + 1 with a background."""
        return int(self.group.max()) + 1


def padded(weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """Contiguous weights [K] or [K, E], with rows of zeros up to a multiple of TILE."""
    missing = [(0, -len(weights) % TILE)] + [(0, 0)] * (weights.ndim - 1)
    return np.ascontiguousarray(np.pad(weights, missing), dtype=np.float32)


class Words(NamedTuple):
    """What the voxels of an image are compared with."""

    vocabulary: FoldedVocabulary | None = None  # gives the labels; None for the classes of the student
    queried: FoldedVocabulary | None = None  # a query beside the labels; None for none
    labels: bool = True  # whether labels are wanted; without them, every voxel has label 0


NO_WORDS = Words()


MATCHING, SPREAD = 0.6, 0.1  # share of a phrase's reach from which a voxel matches it, and how much more makes it sure


def probability_of(score: NDArray[np.float32], reach: NDArray[np.float32] | np.float32) -> NDArray[np.float32]:
    """Probability, float32 [M], that voxels with contrasts [M] are of phrases with these largest contrasts."""
    share = (score / reach - MATCHING) / SPREAD
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(share, -80.0, 80.0))), np.float32)


def matches_of(queried: FoldedVocabulary, cosines: NDArray[np.floating]) -> tuple[PhraseMatches, ...]:
    """The voxels of each phrase: those that have at least a share `MATCHING` of its largest contrast, see `Contrast`.

    Phrases do not compete with each other: a voxel may be a tree and a hedge. `LabelQuery` finds the same without
    writing cosines down. Raises ValueError where it is no query, but a vocabulary of labels. `cosines`: [N, K + 1], see
    `LabelQuery.cosines`.
    """
    contrast = queried.vocabulary.contrast
    if contrast is None:
        raise ValueError("a vocabulary of labels is no query: see TextBank.query")
    general, there = contrast.common * cosines[:, queried.classes], cosines.any(axis=1)
    found = []
    for number, (phrase, reach) in enumerate(zip(queried.vocabulary.names, contrast.reach, strict=True)):
        score = (cosines[:, number] - general).astype(np.float32)
        voxels = np.flatnonzero(there & (score >= MATCHING * reach))
        found.append(
            PhraseMatches(
                phrase, voxels.astype(np.int32), score[voxels], probability_of(score[voxels], np.float32(reach))
            )
        )
    return tuple(found)
