"""Labels of occupied voxels, and cosines with phrases: hidden units of their own, and a layer on them.

Only some of two million voxels are occupied, and which ones is known after the march; the units are computed for those
alone, and once for all that is wanted of them. They are read from the last channels of the feature map with the cells,
shares and table rows that were prepared for the density.

All of it is one kernel, without the matrix products of NumPy's BLAS: that takes twice as long, and has a number of
threads of its own. The kernel takes voxels in the order of the feature map's cells. With the caches that the stages
before leave behind, grid order takes a third longer. Units that are 0 at all of 128 voxels side by side are left out of
the layer.

Voxels that answer words: cosines of their features with phrases, and labels by them.

A voxel's score for a class is the largest cosine of its feature with the phrases of the class. The background counts as
one more class. The voxel has the label of its best class. It is ``unknown`` where that is the background or not ahead
of the second best by a margin. It is ``unknown``, too, where the feature is zero or not finite. The confidence is the
softmax probability of the best, classes and background together, at a temperature; 0 where there is no feature.

The query computes nothing in the feature space, see `FeatureSpace.folded`. For each voxel it computes its label
units, a row a phrase and a triangle for the norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Floats, Integers, Reals
from scene_completion_ros.inference.field_kernels import BLOCK, TILE, label_kernel, place_matches, sort_numbers
from scene_completion_ros.inference.query_kernel import FieldKernel, FieldSamples
from scene_completion_ros.inference.text_bank import BACKGROUND, FeatureSpace, Vocabulary
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches


@dataclass(frozen=True, eq=False)
class FoldedVocabulary:
    """A vocabulary, folded into the label units of a student: what the kernels read."""

    vocabulary: Vocabulary
    space: FeatureSpace
    # weight, bias: float32 [P, E] and [P], rows of phrases, and of zeros behind them up to a multiple of `TILE`.
    weight: Floats
    bias: Floats
    group: NDArray[np.int32]  # int32 [R], class 0..K-1 of each row, rising; K for the background
    # root, root_bias: float32 [Q, E] and [Q], the upper triangle whose product with the units has the feature's norm,
    # without its last row, padded as the others.
    root: Floats
    root_bias: Floats
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
        norm = padded(root[:used, :units]), padded(root[:used, units]), np.float32(root[units, units] ** 2)
        return cls(vocabulary, space, padded(weight), padded(bias), group[order], *norm, space.temperature)

    @property
    def classes(self) -> int:
        """K, which is also the label of ``unknown``."""
        return len(self.vocabulary.names)

    @property
    def groups(self) -> int:
        """K, or K + 1 with a background."""
        return int(self.group.max()) + 1


def padded(weights: Reals) -> Floats:
    """Contiguous weights [K] or [K, E], with rows of zeros up to a multiple of TILE."""
    missing = [(0, -len(weights) % TILE)] + [(0, 0)] * (weights.ndim - 1)
    return np.ascontiguousarray(np.pad(weights, missing), dtype=np.float32)


class Words(NamedTuple):
    """What the voxels of an image are compared with."""

    vocabulary: FoldedVocabulary | None = None  # gives the labels; None for the classes of the student
    queried: FoldedVocabulary | None = None  # a query besides the labels; None for none
    labels: bool = True  # whether labels are wanted; without them, every voxel has label 0


NO_WORDS = Words()


MATCHING, SPREAD = 0.6, 0.1  # share of a phrase's reach from which a voxel matches it, and how much more makes it sure


def probability_of(score: Floats, reach: Floats | np.float32) -> Floats:
    """Probability, float32 [M], that voxels with contrasts [M] are of phrases with these largest contrasts."""
    share = (score / reach - MATCHING) / SPREAD
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(share, -80.0, 80.0))), np.float32)


def matches_of(queried: FoldedVocabulary, cosines: Reals) -> tuple[PhraseMatches, ...]:
    """The voxels of each phrase: those that have at least a share `MATCHING` of its largest contrast, see `Contrast`.

    Phrases do not compete with each other: a voxel may be a tree and a hedge. `WordScores` finds the same without
    writing cosines down. `cosines`: of phrases and background, [N, K + 1]; 0 where there is no feature.
    """
    contrast = queried.vocabulary.contrast
    assert contrast is not None  # of a query
    general, there = contrast.common * cosines[:, queried.classes], cosines.any(axis=1)
    found = []
    for number, (phrase, reach) in enumerate(zip(queried.vocabulary.names, contrast.reach, strict=True)):
        score = (cosines[:, number] - general).astype(np.float32)
        voxels = np.flatnonzero(there & (score >= MATCHING * reach)).astype(np.int32)
        sure = probability_of(score[voxels], np.float32(reach))
        found.append(PhraseMatches(phrase, voxels, score[voxels], sure))
    return tuple(found)


_NOTHING, _NO_ROWS = np.empty(0, np.float32), np.empty((0, 0), np.float32)


class Labelled(NamedTuple):
    """What is known of N voxels."""

    label: Bytes  # uint8 [N], K for ``unknown``
    # float32 [N] in 0..1: the softmax probability of the label; 0 where there is no feature.
    confidence: Floats
    # Of the query that was asked, a phrase each, their voxels in any order; none where nothing was asked.
    matches: tuple[PhraseMatches, ...] = ()


class Units(NamedTuple):
    """Where label units of points are read, as `label_kernel` takes it: what comes before its rows, and behind them."""

    read: tuple[Any, ...]  # map and tables
    points: tuple[Any, ...]  # N points, the place of each among them, and their taps

    @property
    def size(self) -> int:
        """N."""
        return len(self.points[0])


class WordScores:
    """Labels of points by the largest logit or, with a vocabulary, the largest cosine; and matches with a query.

    `kernel`: a `label_kernel`; `weight`, `bias`: V [K, E] and v [K] of the student's classes.
    """

    def __init__(self, kernel: Callable[..., None], weight: Floats, bias: Floats) -> None:
        # float32 [R, E] and [R], rows of zeros behind those of the classes up to a multiple of `TILE`.
        self.weight, self.bias = padded(weight), padded(bias)
        group = np.arange(len(weight), dtype=np.int32)
        self._own = (self.weight, self.bias, group, len(group), len(group), False, np.float32(0.0), np.float32(1.0))
        self._found = _Found()
        self._kernel = kernel

    def __call__(self, units: Units, words: Words = NO_WORDS) -> Labelled:
        """Labels and matches of points; where the words leave out labels, every label is 0, with a confidence of 1."""
        label, confidence = np.zeros(units.size, np.uint8), np.ones(units.size, np.float32)
        queried, vocabulary = words.queried, words.vocabulary if words.labels else None
        labels = (label, confidence) if words.labels else None
        if labels and queried and vocabulary and vocabulary.space is not queried.space:
            self._run(units, vocabulary, labels, None)
            vocabulary = labels = None
        if labels or queried:
            self._run(units, vocabulary, labels, queried)
        return Labelled(label, confidence, self._found.by_phrase() if queried else ())

    def _run(
        self,
        units: Units,
        vocabulary: FoldedVocabulary | None,  # None for the student's classes
        labels: tuple[Bytes, Floats] | None,  # where they are written
        queried: FoldedVocabulary | None,
    ) -> None:
        """Writes labels, and finds matches with what was asked."""
        found, named, roots = self._found, self._own, vocabulary or queried
        found.begin(units.size, queried)
        if vocabulary is not None:
            rules = True, np.float32(vocabulary.vocabulary.margin), np.float32(1.0 / vocabulary.temperature)
            named = (*_rows(vocabulary), vocabulary.classes, *rules)
        asked = (*self._own[:3], 0) if queried is None else _rows(queried)
        norm = (_NO_ROWS, _NOTHING, np.float32(0.0)) if roots is None else (roots.root, roots.root_bias, roots.rest)
        self._kernel(
            *(*units.read, *named, *asked, *norm, *units.points, *(labels or (np.empty(0, np.uint8), _NOTHING))),
            *(found.common, found.least, found.match, found.contrast, found.matches),
        )


def _rows(words: FoldedVocabulary) -> tuple[Floats, Floats, NDArray[np.int32], int]:
    return words.weight, words.bias, words.group, words.groups


class LabelQuery:
    """The labels of a field student at some of the points that were prepared for its field.

    `field`: the field; its head has labels; `samples`: prepared points, those of `VoxelQuery` for a grid; `size`:
    number of targets, X * Y * Z for a grid: each is at most that of one sample.
    """

    def __init__(self, field: FieldKernel, samples: FieldSamples, size: int) -> None:
        positional_weight, hidden_bias, weight, bias = field.head.label_layers()
        self.field = field
        self.tables = field.positional_tables(positional_weight, hidden_bias)  # positional tables of the units
        self.samples = samples
        self.sample_of = samples_of_targets(samples.target, size)
        self.scores = WordScores(label_kernel(field.head.hidden, field.head.label_hidden), weight, bias)

    def __call__(self, features: Floats, targets: Integers, words: Words = NO_WORDS) -> Labelled:
        """See `WordScores`.

        `features`: float32 [h, w, C + E], the encoder's output; `targets`: [N], flat indices of voxels that have a
        sample.
        """
        return self.scores(self.units(features, targets), words)

    def units(self, features: Floats, targets: Integers) -> Units:
        """The units of voxels [N] in the order of the feature map's cells; arguments as those of a call."""
        chosen = self.sample_of[targets]
        assert (chosen >= 0).all(), "voxels out of view"
        samples, place = np.empty_like(chosen), np.empty_like(chosen)
        sort_numbers(chosen, samples, place)  # samples are ordered by cell
        read = self.field.flat_features(features), self.field.feature_size[1], *self.tables.axes
        return Units(read, (samples, place, *self.samples.taps))


def samples_of_targets(target: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """The sample of each of so many targets, int32; -1 where it has none. 8 MB for the default grid.

    Filtering all samples by whether they are occupied would take 3 ms a frame.
    """
    sample_of = np.full(size, -1, dtype=np.int32)
    sample_of[target] = np.arange(len(target), dtype=np.int32)
    return sample_of


class _Found:
    """The matches of a query with N voxels, as the kernel finds them: block by block of voxels. See `matches_of`."""

    def __init__(self) -> None:
        self._room = np.empty((0, 2), np.int32), np.empty(0, np.float32)
        self.begin(0)

    def begin(self, voxels: int, queried: FoldedVocabulary | None = None) -> None:
        """Makes room, which is kept from image to image: fresh memory would take as long as the search."""
        contrast = None if queried is None else queried.vocabulary.contrast
        self._voxels, self._phrases = voxels, () if queried is None or contrast is None else queried.vocabulary.names
        self._reach = np.array([] if contrast is None else contrast.reach, np.float32)
        self.common = np.float32(0.0 if contrast is None else contrast.common)
        self.least = np.float32(MATCHING) * self._reach
        blocks, columns = -(-voxels // BLOCK), len(self._reach) * BLOCK
        size = blocks * columns
        if size > self._room[1].size:
            self._room = np.empty((size * 5 // 4, 2), np.int32), np.empty(size * 5 // 4, np.float32)
        self.match = self._room[0][:size].reshape(blocks, columns, 2)
        self.contrast = self._room[1][:size].reshape(blocks, columns)
        self.matches = np.zeros((blocks, len(self._reach)), np.int32)

    def by_phrase(self) -> tuple[PhraseMatches, ...]:
        ends = np.cumsum(self.matches.T, dtype=np.int32).reshape(self.matches.T.shape).T
        of_phrase = self.matches.sum(axis=0)
        voxels, score = np.empty(of_phrase.sum(), np.int32), np.empty(of_phrase.sum(), np.float32)
        place_matches(self.match, self.contrast, self.matches, ends - self.matches, voxels, score)
        probability = probability_of(score, self._reach.repeat(of_phrase))
        parts = [slice(end - count, end) for end, count in zip(np.cumsum(of_phrase), of_phrase, strict=True)]
        return tuple(
            PhraseMatches(phrase, voxels[part], score[part], probability[part])
            for phrase, part in zip(self._phrases, parts, strict=True)
        )
