"""Voxels of several cameras: by hand, by the readable rule, and by the kernel."""

import numpy as np
import pytest

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.camera_fusion import DenseVoxels, all_matches, fuse_dense, fuse_views, thresholds_of
from scene_completion_ros.voxels.occupancy import Thresholds
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, VoxelState
from tests.mapping.twins import fuse_dense_reference
from tests.voxels.samples import COMPLETED, FREE, SURFACE, voxels_of

U, FS, FI, S, C = (int(state) for state in VoxelState)
THRESHOLD = 0.5
THRESHOLDS = thresholds_of(Thresholds(THRESHOLD, 0.375), ("a", "road", "c", "d"))

# One voxel a row: (state, probability, label, confidence) of each view, and of the result.
Say = tuple[int, float, int, float]
NOTHING: Say = (U, 0.0, 0, 0.0)
BY_HAND: list[tuple[str, list[Say], Say]] = [
    ("unobserved", [NOTHING, NOTHING], NOTHING),
    ("one view alone stays as it is", [NOTHING, (C, 0.7, 3, 0.6)], (C, 0.7, 3, 0.6)),
    ("seen free beats completed", [(C, 0.9, 2, 0.9), (FS, 0.1, 0, 0.0)], (FS, 0.1, 0, 0.0)),
    ("seen occupied beats inferred free", [(FI, 0.1, 0, 0.0), (S, 0.8, 2, 0.5)], (S, 0.8, 2, 0.5)),
    ("two who see are averaged, occupied", [(S, 0.9, 1, 0.8), (FS, 0.3, 0, 0.0)], (S, 0.6, 1, 0.8)),
    ("two who see are averaged, free", [(S, 0.6, 1, 0.8), (FS, 0.2, 0, 0.0)], (FS, 0.4, 0, 0.0)),
    ("two who infer are averaged", [(C, 0.8, 4, 0.5), (FI, 0.4, 0, 0.0)], (C, 0.6, 4, 0.5)),
    ("and may be free", [(C, 0.5, 4, 0.5), (FI, 0.3, 0, 0.0)], (FI, 0.4, 0, 0.0)),
    # 0.9 * 0.5 = 0.45 for 1, against 0.6 * 0.7 = 0.42 for 2: 0.45 / (0.9 + 0.6) = 0.3.
    ("the label of more weight", [(S, 0.9, 1, 0.5), (S, 0.6, 2, 0.7)], (S, 0.75, 1, 0.3)),
    # 0.6 * 0.5 + 0.7 * 0.5 = 0.65 for 2, against 0.8 * 0.75 = 0.6 for 1: 0.65 / 2.1.
    ("many small votes", [(S, 0.8, 1, 0.75), (S, 0.6, 2, 0.5), (S, 0.7, 2, 0.5)], (S, 0.7, 2, 0.65 / 2.1)),
    ("equal votes go to the lower label", [(S, 0.6, 5, 0.5), (S, 0.6, 3, 0.5)], (S, 0.6, 3, 0.25)),
    ("who only infers has no vote", [(S, 0.6, 5, 0.5), (C, 0.9, 3, 0.9), (C, 0.9, 3, 0.9)], (S, 0.6, 5, 0.5)),
    ("no confidence at all", [(S, 0.6, 5, 0.0), (S, 0.6, 6, 0.0)], (S, 0.6, 5, 0.0)),
]


def dense(voxels: list[list[Say]]) -> DenseVoxels:
    views = max(map(len, voxels))
    says = np.array([says + [NOTHING] * (views - len(says)) for says in voxels]).transpose(2, 1, 0)
    state, probability, label, confidence = (np.ascontiguousarray(says[number]) for number in range(4))
    return DenseVoxels(
        state.astype(np.uint8), probability.astype(np.float32), label.astype(np.uint8), confidence.astype(np.float32)
    )


def some_views(seed: int, views: int, voxels: int) -> DenseVoxels:
    """States that fit the probabilities, as the classifier makes them."""
    random = np.random.default_rng(seed)
    probability = random.integers(0, 65, (views, voxels)).astype(np.float32) / 64  # equal ones, and exact sums
    seen, observed = random.random((2, views, voxels)) < 0.6
    label = random.integers(0, 4, (views, voxels)).astype(np.uint8)
    state = np.where(probability >= THRESHOLDS[label], np.where(seen, S, C), np.where(seen, FS, FI))
    state = np.where(observed, state, U).astype(np.uint8)
    confidence = (random.integers(0, 9, (views, voxels)) / 8).astype(np.float32)
    occupied = state >= S
    return DenseVoxels(
        state,
        np.where(observed, probability, 0).astype(np.float32),
        np.where(occupied, label, 0).astype(np.uint8),
        np.where(occupied, confidence, 0).astype(np.float32),
    )


@pytest.mark.parametrize("fuse", [fuse_dense_reference, fuse_dense])
def test_by_hand(fuse: object) -> None:
    result = fuse(dense([says for _, says, _ in BY_HAND]), np.full(256, THRESHOLD, np.float32))  # type: ignore[operator]
    for number, (name, _, (state, probability, label, confidence)) in enumerate(BY_HAND):
        assert result.state[number] == state, name
        assert result.probability[number] == pytest.approx(probability, abs=1e-6), name
        assert result.label[number] == label, name
        assert result.confidence[number] == pytest.approx(confidence, abs=1e-6), name


GRID = VoxelGrid((0.0, 0.0, 0.0), 0.5, (40, 30, 20))


def sparse(said: DenseVoxels, view: int, stamp_ns: int) -> tuple[SemanticVoxels, np.ndarray]:
    state = said.state[view].reshape(GRID.shape)
    occupied = np.flatnonzero(said.state[view] >= S)
    voxels = SemanticVoxels(
        grid=GRID,
        grid_from_camera=RigidTransform(np.eye(3), np.full(3, float(view))),
        stamp_ns=stamp_ns,
        state=state,
        index=np.argwhere(state >= S).astype(np.int32),
        probability=said.probability[view][occupied],
        label=said.label[view][occupied],
        confidence=said.confidence[view][occupied],
        class_names=("a", "road", "c", "d"),
        class_colours=((0, 0, 0),) * 4,
    )
    return voxels, said.probability[view].reshape(GRID.shape)


@pytest.mark.parametrize("views", [2, 5])
def test_the_kernel_fuses_sparse_voxels_as_the_rule_says(views: int) -> None:
    said = some_views(views, views, 24_000)
    voxels, probabilities = zip(*(sparse(said, view, 100 - view) for view in range(views)), strict=True)
    fused, probability = fuse_views(voxels, probabilities, Thresholds(THRESHOLD, 0.375))
    expected = fuse_dense_reference(said, THRESHOLDS)
    occupied = np.flatnonzero(expected.state >= S)
    assert len(np.unique(expected.state)) == 5
    np.testing.assert_array_equal(fused.state.reshape(-1), expected.state)
    np.testing.assert_array_equal(np.ravel_multi_index(tuple(fused.index.T), GRID.shape), occupied)
    np.testing.assert_array_equal(fused.label, expected.label[occupied])
    np.testing.assert_allclose(fused.probability, expected.probability[occupied], atol=1e-6)
    np.testing.assert_allclose(fused.confidence, expected.confidence[occupied], atol=1e-6)
    assert fused.stamp_ns == 101 - views
    np.testing.assert_allclose(probability.reshape(-1), expected.probability, atol=1e-6)
    assert fuse_views(voxels[:1], probabilities[:1], Thresholds(THRESHOLD, 0.375))[0] is voxels[0]


STATE = np.array([[[SURFACE, FREE], [COMPLETED, SURFACE]], [[SURFACE, SURFACE], [FREE, FREE]]])
# Occupied, in order: (0,0,0), (0,1,0), (0,1,1), (1,0,0), (1,0,1).


def found(phrase: str, voxels: list[int], score: list[float]) -> PhraseMatches:
    said = np.array(score, np.float32)
    return PhraseMatches(phrase, np.array(voxels, np.int32), said, said / 2.0)


def test_a_voxel_matches_each_phrase_once_by_the_image_of_the_best_score() -> None:
    own = voxels_of(STATE)
    front = (own, [found("car", [0, 2, 4], [0.5, 0.2, 0.4]), found("tree", [2, 4], [0.3, 0.4])])
    left = (own, [found("car", [1, 2], [0.1, 0.25]), found("tree", [], [])])
    matches = all_matches(own, [front, left])
    assert matches.index.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 1]]
    assert matches.phrase.tolist() == [0, 0, 0, 0, 1, 1]
    np.testing.assert_allclose(matches.score, [0.5, 0.1, 0.25, 0.4, 0.3, 0.4])
    np.testing.assert_allclose(matches.probability, [0.25, 0.05, 0.125, 0.2, 0.15, 0.2])


def test_what_is_not_occupied_in_all_images_together_answers_nothing() -> None:
    own, together = voxels_of(STATE), STATE.copy()
    together[0, 0, 0] = FREE
    matches = all_matches(voxels_of(together), [(own, [found("car", [0, 3], [0.5, 0.2])])])
    assert matches.index.tolist() == [[1, 0, 0]]
    assert (matches.index.dtype, matches.phrase.dtype) == (np.int32, np.uint8)
    assert (matches.score.dtype, matches.probability.dtype) == (np.float32, np.float32)
