"""Densities, labels by classes, labels by words and matches: kernels, compared with their readable twins."""

import dataclasses
import math

import numpy as np
import pytest

from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.inference.head import HeadWeights, PointCodeSpec
from scene_completion_ros.inference.label_query import FoldedVocabulary, LabelQuery, Words, matches_of
from scene_completion_ros.inference.query_kernel import VoxelQuery, hidden_reference
from scene_completion_ros.inference.text_bank import BACKGROUND, Contrast, FeatureSpace, Vocabulary
from tests.inference.small_bundle import (
    CANONICAL,
    random_features,
    random_head,
    random_query,
    random_vocabulary,
    small_space,
    with_labels,
)
from tests.inference.twins import (
    assert_labels,
    centres_of,
    class_cosines_reference,
    density_reference,
    label_logits_reference,
    labels_reference,
    most_likely,
)

CODE = PointCodeSpec()
FEATURE_SIZE = (96, 320)
# Denser than a trained field, so that differences show.
DENSITY_HEAD = random_head()


def rotation(axis: int, degrees: float) -> RigidTransform:
    return RigidTransform(about(axis, math.radians(degrees)), np.zeros(3))


FORWARD = DEFAULT_GRID_FROM_CAMERA.inverse()
TILTED = rotation(0, 3.0) @ rotation(2, 2.0) @ FORWARD
SHIFT = RigidTransform(np.eye(3), np.array([0.4, -1.1, 0.7]))
AROUND = VoxelGrid((-12.8, -12.8, -3.0), 0.4, (64, 64, 16))
AHEAD = VoxelGrid((0.0, -12.8, -2.2), 0.4, (64, 64, 16))
CASES = {
    "default pose": (AHEAD, FORWARD),
    "pitch 3 and roll 2 degrees": (AHEAD, TILTED),
    "yaw 90 degrees, reaching behind the camera": (AROUND, TILTED @ rotation(2, 90.0) @ SHIFT),
    "beyond the depths of the code": (VoxelGrid((60.0, -12.8, -2.2), 0.4, (64, 64, 16)), FORWARD),
    "optical axes": (VoxelGrid((-6.0, -3.0, -4.0), 0.4, (30, 15, 60), "optical"), RigidTransform.identity()),
}


@pytest.mark.parametrize("case", CASES)
def test_density_agrees_with_the_reference(case: str) -> None:
    grid, camera_from_grid = CASES[case]
    features = random_features()
    query = VoxelQuery(DENSITY_HEAD, CODE, CANONICAL, FEATURE_SIZE, grid, camera_from_grid)
    density = query.density(features)
    centres = np.stack(np.meshgrid(*grid.axis_centres(), indexing="ij"), axis=-1)
    points = np.asarray(camera_from_grid.apply(centres.reshape(-1, 3)))
    in_image, known = CANONICAL.project(points)[1], points[:, 2] <= CODE.far
    in_view = (in_image & known).reshape(grid.shape)
    np.testing.assert_array_equal(query.in_view, in_view)
    assert query.too_far == (in_image & ~known).sum()
    assert 0.02 < in_view.mean() < 0.98
    expected = density_reference(features, points, DENSITY_HEAD, CODE, CANONICAL).reshape(grid.shape)
    assert expected.std() > 0.5
    assert np.all(density[~in_view] == 0.0)
    np.testing.assert_allclose(density, np.where(in_view, expected, 0.0), atol=1e-4, rtol=0.0)
    opacity = -np.expm1(-grid.voxel_size * density.astype(np.float64))
    np.testing.assert_allclose(query.opacity(features), opacity, atol=1e-6)


HEAD = with_labels(random_head())
POSE = CASES["pitch 3 and roll 2 degrees"]


def queries(
    grid: VoxelGrid, camera_from_grid: RigidTransform, head: HeadWeights = HEAD
) -> tuple[VoxelQuery, LabelQuery]:
    query = VoxelQuery(head, CODE, CANONICAL, FEATURE_SIZE, grid, camera_from_grid)
    return query, LabelQuery(query.field, query.samples, query.in_view.size)


def some(candidates: np.ndarray, count: int) -> np.ndarray:
    """Some flat indices, in the order of the grid."""
    return np.sort(np.random.default_rng(0).choice(np.flatnonzero(candidates), count, replace=False))


def check(
    query: LabelQuery,
    features: np.ndarray,
    pose: tuple[VoxelGrid, RigidTransform],
    targets: np.ndarray,
    vocabulary: Vocabulary | None = None,
    space: FeatureSpace | None = None,
) -> np.ndarray:
    """Compares the kernel with the twins, by classes or, with a vocabulary, by words; gives the labels."""
    head, points = query.field.head, centres_of(*pose, targets)
    words, margin, matches = Words(), 0.0, ()
    if vocabulary is None or space is None:
        expected = label_logits_reference(features, points, head, CODE, CANONICAL)
        label, confidence = most_likely(expected)
    else:
        folded, margin = FoldedVocabulary.of(vocabulary, space), vocabulary.margin
        asked = FoldedVocabulary.of(random_query(9, 20, dimension=space.dimension, seed=2), space)
        words = Words(folded, asked)
        weight, bias, _, _ = head.label_layers()
        hidden = hidden_reference(features[..., head.hidden :], points, weight, bias, CODE, CANONICAL)
        expected = class_cosines_reference(hidden, vocabulary, space)
        label, confidence = labels_reference(expected, folded.classes, margin, folded.temperature)
        matches = matches_of(asked, class_cosines_reference(hidden, asked.vocabulary, space))
    found = query(features, targets, words)
    assert (found.label.dtype, found.confidence.dtype) == (np.uint8, np.float32)
    for one, right in zip(found.matches, matches, strict=True):
        _, ours, theirs = np.intersect1d(one.voxels, right.voxels, return_indices=True)
        assert one.phrase == right.phrase and len(ours) >= max(len(one.voxels), len(right.voxels)) - 2
        np.testing.assert_allclose(one.score[ours], right.score[theirs], atol=1e-4)
        np.testing.assert_allclose(one.probability[ours], right.probability[theirs], atol=2e-2)
    atol = 1e-3 if vocabulary else 1e-4
    assert_labels(found, expected, label, confidence, margin=margin, atol=atol, tie=2e-4)
    return found.label


@pytest.mark.parametrize("case", CASES)
def test_kernel_agrees_with_the_twins(case: str) -> None:
    voxels, query = queries(*CASES[case])
    features = random_features(channels=HEAD.channels)
    targets = some(voxels.in_view, 1000)
    assert len(np.unique(check(query, features, CASES[case], targets))) > 4
    by_words = check(query, features, CASES[case], targets, random_vocabulary(20, 30, background=4), small_space())
    assert len(np.unique(by_words)) > 4 and (by_words == 20).any()


@pytest.mark.parametrize(
    ("label_hidden", "dimension", "classes", "rows", "background", "margin"),
    [
        (64, 512, 20, 20, 0, 0.05),
        (64, 384, 254, 1000, 40, 0.0),
        (33, 8, 5, 9, 2, 0.0),
        (33, 8, 5, 9, 2, 0.05),
        (64, 3, 1, 1, 0, 0.05),
    ],
)
def test_any_dimension_and_number_of_phrases(
    label_hidden: int, dimension: int, classes: int, rows: int, background: int, margin: float
) -> None:
    voxels, query = queries(*POSE, with_labels(random_head(), 3, label_hidden))
    features, targets = random_features(1, query.field.head.channels), some(voxels.in_view, 300)
    vocabulary = random_vocabulary(classes, rows, background=background, dimension=dimension, margin=margin)
    check(query, features, POSE, targets, vocabulary, small_space("t", dimension, label_hidden))


def test_voxels_without_a_feature_are_unknown() -> None:
    """All label units are 0 and the space has no bias; or the map holds NaN."""
    voxels, query = queries(*POSE, dataclasses.replace(HEAD, label_hidden_bias=np.full(64, -1e4, np.float32)))
    features, targets = random_features(2, HEAD.channels), some(voxels.in_view, 300)
    space = small_space(bias=np.zeros(16, np.float32))
    folded = FoldedVocabulary.of(random_vocabulary(5, 5), space)
    asked = FoldedVocabulary.of(random_query(3), space)
    for given in (features, np.full_like(features, np.nan)):
        label, confidence, matches = query(given, targets, Words(folded, asked))
        assert (label == 5).all() and (confidence == 0.0).all() and not any(len(one.voxels) for one in matches)
    cosines = class_cosines_reference(np.array([[0.0] * 64, [np.nan] * 64]), folded.vocabulary, space)
    assert not cosines.any()
    assert [part.tolist() for part in labels_reference(cosines, 5, 0.0, 0.07)] == [[5, 5], [0.0, 0.0]]


PLANE = FeatureSpace("t", np.eye(2, dtype=np.float32), np.zeros(2, np.float32))


def test_scores_and_labels_of_a_case_computed_by_hand() -> None:
    """Features (3, 4), (4, 3) and (1, 0); classes x (two phrases) and y, the background between them."""
    diagonal = math.sqrt(0.5)
    rows = np.array([[1, 0], [0, -1], [0, 1], [diagonal, diagonal]], np.float32)
    group = np.array([0, 0, 1, BACKGROUND], np.int32)
    vocabulary = Vocabulary(("x", "y"), ((0, 0, 0),) * 2, rows, group, margin=0.1)
    cosines = class_cosines_reference(np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), vocabulary, PLANE)
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
    folded = FoldedVocabulary.of(vocabulary, PLANE)
    cosines = np.array([[0.8, 0.9, 0.5], [0.5, 0.9, 0.5], [0.49, 0.9, 0.5], [0.0, 0.0, 0.0]])
    x, y = matches_of(folded, cosines)
    assert (x.phrase, x.voxels.tolist(), y.voxels.tolist()) == ("x", [0, 1], [])  # 0.6 and 0.3; 0.29 is too little
    np.testing.assert_allclose(x.score, [0.6, 0.3], atol=1e-6)
    np.testing.assert_allclose(x.probability, [1.0 / (1.0 + math.exp(-6.0)), 0.5], atol=1e-5)


def test_inverse_depth_undoes_the_code_also_beyond_infinity() -> None:
    inverse = np.array([-0.01, 0.0, 1 / 80, 1 / 3, 1.0])
    np.testing.assert_allclose(CODE.inverse_depth(CODE.depth_code_of_inverse(inverse)), inverse, atol=1e-15)
    np.testing.assert_allclose(CODE.inverse_depth(CODE.depth_code(np.array([10.0]))), [0.1])


def test_image_coordinates_are_those_of_the_camera() -> None:
    ahead = np.random.default_rng(1).uniform([-3.0, -0.5, 1.0], [3.0, 0.5, 60.0], (200, 3))
    pixels, _ = CANONICAL.project(ahead)
    edges = 2.0 * (pixels + 0.5) / (CANONICAL.width, CANONICAL.height) - 1.0  # of the image: -1 and 1
    np.testing.assert_allclose(CODE.image_coordinates(ahead, CANONICAL), edges, atol=1e-12)
