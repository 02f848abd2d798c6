from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from scene_completion_ros.geometry import DEFAULT_GRID, RigidTransform, VoxelGrid
from scene_completion_ros.inference.feature_space import FeatureSpace
from scene_completion_ros.inference.label_query import LabelQuery
from scene_completion_ros.inference.phrase_query import (
    FoldedVocabulary,
    PhraseQuery,
    Words,
    class_cosines_reference,
    labels_reference,
    matches_of,
)
from scene_completion_ros.inference.query_kernel import hidden_reference
from scene_completion_ros.inference.text_bank import BACKGROUND, Contrast, Vocabulary
from scene_completion_ros.jit import kernel_threads
from tests.inference.small_bundle import CANONICAL, random_features, random_head, with_labels
from tests.inference.small_vocabulary import random_vocabulary, small_space
from tests.inference.test_label_query import queries, some
from tests.inference.test_query_kernel import CASES, CODE, FORWARD

HEAD = with_labels(random_head())
POSE = CASES["pitch 3 and roll 2 degrees"]


def units(
    features: np.ndarray, grid: VoxelGrid, camera_from_grid: RigidTransform, targets: np.ndarray, labels: LabelQuery
) -> np.ndarray:
    """Label units of voxels as the readable twin has them, float64 [N, E]."""
    head = labels.field.head
    index = np.stack(np.unravel_index(targets, grid.shape), axis=-1)
    points = camera_from_grid.apply(np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size)
    weight, bias, _, _ = head.label_layers()
    return hidden_reference(features[..., head.hidden :], points, weight, bias, CODE, CANONICAL)


def check(
    query: PhraseQuery, hidden: np.ndarray, vocabulary: Vocabulary, space: FeatureSpace, *where: np.ndarray
) -> None:
    """Compares the kernel with the twin."""
    folded = FoldedVocabulary.of(vocabulary, space)
    expected = class_cosines_reference(hidden, vocabulary, space)
    _, _, cosines = query(Words(asked=folded), *where)
    assert cosines is not None and cosines.T.shape == expected.shape == (len(hidden), folded.groups)
    np.testing.assert_allclose(cosines.T, expected, atol=1e-4, rtol=0.0)
    label, confidence, _ = query(Words(folded), *where)
    assert (label.dtype, confidence.dtype) == (np.uint8, np.float32)
    twin_label, twin_confidence = labels_reference(expected, folded.classes, vocabulary.margin, folded.temperature)
    np.testing.assert_allclose(confidence, twin_confidence, atol=1e-3)
    ranked = np.sort(expected, axis=1)[:, ::-1]
    ahead = ranked[:, 0] - ranked[:, 1] if folded.groups > 1 else np.ones(len(hidden))
    clear = (ahead > 2e-4) & (np.abs(ahead - vocabulary.margin) > 2e-4)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(label[clear], twin_label[clear])


@pytest.mark.parametrize("case", CASES)
def test_kernel_agrees_with_the_twin(case: str) -> None:
    grid, camera_from_grid = CASES[case]
    voxels, labels = queries(grid, camera_from_grid)
    features, targets = random_features(channels=HEAD.channels), some(voxels.in_view, 1000)
    hidden = units(features, grid, camera_from_grid, targets, labels)
    vocabulary = random_vocabulary(20, 30, background=4)
    check(PhraseQuery(labels), hidden, vocabulary, small_space(), features, targets)
    label, *_ = PhraseQuery(labels)(Words(FoldedVocabulary.of(vocabulary, small_space())), features, targets)
    assert len(np.unique(label)) > 4
    assert (label == 20).any()


@pytest.mark.parametrize(
    ("label_hidden", "dimension", "classes", "rows", "background"),
    [(64, 512, 20, 20, 0), (64, 384, 254, 1000, 40), (33, 8, 5, 9, 2), (64, 3, 1, 1, 0)],
)
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_any_width_dimension_and_number_of_phrases(
    label_hidden: int, dimension: int, classes: int, rows: int, background: int, margin: float
) -> None:
    voxels, labels = queries(*POSE, with_labels(random_head(), 3, label_hidden))
    features, targets = random_features(1, labels.field.head.channels), some(voxels.in_view, 300)
    hidden = units(features, *POSE, targets, labels)
    vocabulary = random_vocabulary(classes, rows, background=background, dimension=dimension, margin=margin)
    check(PhraseQuery(labels), hidden, vocabulary, small_space("t", dimension, label_hidden), features, targets)


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_spaces_without_full_rank(rank: int) -> None:
    rng = np.random.default_rng(3)
    weight = (rng.normal(size=(64, rank)) @ rng.normal(size=(rank, 64))).astype(np.float32)
    voxels, labels = queries(*POSE)
    features, targets = random_features(2, HEAD.channels), some(voxels.in_view, 300)
    hidden, vocabulary = units(features, *POSE, targets, labels), random_vocabulary(4, 6, dimension=64)
    check(PhraseQuery(labels), hidden, vocabulary, small_space("t", 64, weight=weight), features, targets)


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1024, 1025, 2500])
def test_any_number_of_voxels_in_any_order(count: int) -> None:
    voxels, labels = queries(*POSE)
    query, features = PhraseQuery(labels), random_features(2, HEAD.channels)
    targets = np.random.default_rng(count).permutation(some(voxels.in_view, count))
    vocabulary = random_vocabulary(7, 9)
    if count:
        check(query, units(features, *POSE, targets, labels), vocabulary, small_space(), features, targets)
    else:
        words = Words(asked=FoldedVocabulary.of(vocabulary, small_space()))
        assert query(words, features, targets)[2].shape == (8, 0)  # type: ignore[union-attr]


def test_labels_of_the_student_and_of_words_are_the_same_beside_a_query() -> None:
    """In one run, and in two where vocabulary and query are of different feature spaces."""
    voxels, labels = queries(*POSE)
    query, features, targets = PhraseQuery(labels), random_features(2, HEAD.channels), some(voxels.in_view, 1000)
    folded = FoldedVocabulary.of(random_vocabulary(7, 9), small_space())
    asked = FoldedVocabulary.of(random_vocabulary(3, 5), folded.space)
    elsewhere = FoldedVocabulary.of(random_vocabulary(3, 5), small_space(seed=1))
    own, own_confidence, cosines = query(Words(None, asked), features, targets)
    expected, expected_confidence = labels(features, targets)
    np.testing.assert_array_equal(own, expected)
    np.testing.assert_allclose(own_confidence, expected_confidence, atol=1e-5)
    alone = query(Words(folded), features, targets)
    for other, scores in ((asked, cosines), (elsewhere, query(Words(None, elsewhere), features, targets)[2])):
        *beside, found = query(Words(folded, other), features, targets)
        np.testing.assert_array_equal(beside, alone[:2])
        np.testing.assert_array_equal(found, scores)


def test_one_kernel_serves_all_vocabularies() -> None:
    voxels, labels = queries(*POSE)
    query, features, targets = PhraseQuery(labels), random_features(2, HEAD.channels), some(voxels.in_view, 100)
    for classes, rows, dimension in ((3, 5, 16), (250, 900, 16), (1, 1, 40)):
        vocabulary = random_vocabulary(classes, rows, dimension=dimension)
        query(Words(FoldedVocabulary.of(vocabulary, small_space("t", dimension))), features, targets)
    assert len(query._kernel.signatures) == 1  # type: ignore[attr-defined]


def test_the_default_grid_on_two_threads() -> None:
    voxels, labels = queries(DEFAULT_GRID, FORWARD)
    query, features = PhraseQuery(labels), random_features(3, HEAD.channels)
    targets, folded = some(voxels.in_view, 20000), FoldedVocabulary.of(random_vocabulary(20, 20), small_space())
    with kernel_threads(1):
        alone = query(Words(folded, folded), features, targets)
    with kernel_threads(2):
        together = query(Words(folded, folded), features, targets)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_voxels_without_a_feature_are_unknown() -> None:
    """All label units are 0 and the space has no bias; or the map holds NaN."""
    voxels, labels = queries(*POSE, dataclasses.replace(HEAD, label_hidden_bias=np.full(64, -1e4, np.float32)))
    features, targets = random_features(2, HEAD.channels), some(voxels.in_view, 300)
    space = small_space(bias=np.zeros(16, np.float32))
    folded = FoldedVocabulary.of(random_vocabulary(5, 5), space)
    for given in (features, np.full_like(features, np.nan)):
        label, confidence, cosines_of = PhraseQuery(labels)(Words(folded, folded), given, targets)
        assert (label == 5).all()
        assert (confidence == 0.0).all()
        assert (cosines_of == 0.0).all()
    cosines = class_cosines_reference(np.array([[0.0] * 64, [np.nan] * 64]), folded.vocabulary, space)
    assert not cosines.any()
    assert [part.tolist() for part in labels_reference(cosines, 5, 0.0, 0.07)] == [[5, 5], [0.0, 0.0]]


def test_scores_and_labels_of_a_case_computed_by_hand() -> None:
    """Features (3, 4), (4, 3) and (1, 0); classes x (two phrases) and y, the background between them."""
    diagonal = math.sqrt(0.5)
    rows = np.array([[1, 0], [0, -1], [0, 1], [diagonal, diagonal]], np.float32)
    group = np.array([0, 0, 1, BACKGROUND], np.int32)
    vocabulary = Vocabulary(("x", "y"), ((0, 0, 0),) * 2, rows, group, margin=0.1)
    space = FeatureSpace("t", np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    cosines = class_cosines_reference(np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), vocabulary, space)
    np.testing.assert_allclose(cosines, [[0.6, 0.8, 1.4 * diagonal], [1.0, 0.0, diagonal], [0, 0, 0]], atol=1e-12)
    label, confidence = labels_reference(cosines, 2, 0.1, 0.5)
    assert label.tolist() == [2, 0, 2]  # the background is best; x is; there is nothing
    expected = 1.0 / (1.0 + math.exp(-1.0 / 0.5) + math.exp((diagonal - 1.0) / 0.5))
    np.testing.assert_allclose(confidence[1:], [expected, 0.0], atol=1e-7)
    assert labels_reference(cosines[1:2], 2, 0.3, 0.5)[0].tolist() == [2]  # x is ahead by 0.293 only


def test_matches_by_contrast_of_a_case_computed_by_hand() -> None:
    """Phrase x reaches 0.5 and phrase y nothing; what all have in common is 0.4 of the background's cosine."""
    rows = np.array([[1, 0], [0, 1], [math.sqrt(0.5)] * 2], np.float32)
    contrast = Contrast(0.4, (0.5, math.inf))
    vocabulary = Vocabulary(
        ("x", "y"), ((0, 0, 0),) * 2, rows, np.array([0, 1, BACKGROUND], np.int32), margin=0.0, contrast=contrast
    )
    folded = FoldedVocabulary.of(vocabulary, space_of(2))
    cosines = np.array([[0.8, 0.9, 0.5], [0.5, 0.9, 0.5], [0.49, 0.9, 0.5], [0.0, 0.0, 0.0]]).T
    x, y = matches_of(folded, cosines)
    assert (x.phrase, x.voxels.tolist(), y.voxels.tolist()) == ("x", [0, 1], [])  # 0.6 and 0.3; 0.29 is too little
    np.testing.assert_allclose(x.score, [0.6, 0.3], atol=1e-6)
    np.testing.assert_allclose(x.probability, [1.0 / (1.0 + math.exp(-6.0)), 0.5], atol=1e-5)
    plain = FoldedVocabulary.of(dataclasses.replace(vocabulary, contrast=None), space_of(2))
    with pytest.raises(ValueError, match="is no query"):
        matches_of(plain, cosines)


def space_of(dimension: int) -> FeatureSpace:
    return FeatureSpace("t", np.eye(dimension, dtype=np.float32), np.zeros(dimension, np.float32))


def test_voxels_out_of_view_are_refused() -> None:
    voxels, labels = queries(*POSE)
    folded = FoldedVocabulary.of(random_vocabulary(3, 3), small_space())
    with pytest.raises(ValueError, match="2 of 2 voxels are out of view"):
        PhraseQuery(labels)(Words(folded), random_features(channels=HEAD.channels), np.flatnonzero(~voxels.in_view)[:2])
