import numpy as np
import pytest
import scipy.ndimage

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.mapping.clusters import VoxelClusters, all_matches, connect
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches
from tests.mapping.small_voxels import COMPLETED, FREE, SURFACE, voxels_of
from tests.mapping.twins import connect_reference

GRID = VoxelGrid((1.0, -2.0, 0.0), 0.5, (12, 9, 7))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_kernel_connects_as_its_twin_and_scipy_do(share: float) -> None:
    rng = np.random.default_rng(0)
    index = np.argwhere(rng.random(GRID.shape) < share).astype(np.int32)
    group = rng.integers(0, 3, len(index), dtype=np.uint8)
    number = np.full(GRID.shape, -1, dtype=np.int32)
    first = connect(index, group, number)
    np.testing.assert_array_equal(first, connect_reference(index, group))
    assert (number == -1).all()
    for one in range(3):
        dense = np.zeros(GRID.shape, dtype=bool)
        dense[tuple(index[group == one].T)] = True
        labelled, count = scipy.ndimage.label(dense, structure=np.ones((3, 3, 3)))
        ours = first[group == one]
        assert len(np.unique(ours)) == count
        pairs = set(zip(ours.tolist(), labelled[tuple(index[group == one].T)].tolist(), strict=True))
        assert len(pairs) == count


def test_clusters_come_by_group_and_size_with_their_centroids() -> None:
    a_row = [(0, 0, 0), (1, 1, 1), (2, 2, 2)]  # connected by corners
    apart, a_pair = [(6, 0, 0)], [(9, 4, 4), (9, 4, 5)]
    of_other_group = [(3, 3, 3)]  # touches the row
    index = np.array([*apart, *of_other_group, *a_row, *a_pair], np.int32)
    found = VoxelClusters(GRID)(index, np.array([1, 0, 1, 1, 1, 1, 1], np.uint8))
    assert found.group.tolist() == [0, 1, 1, 1]
    assert found.size.tolist() == [1, 3, 2, 1]
    # Centres of voxels lie at origin + (index + 1/2) edge.
    by_hand = [[2.75, -0.25, 1.75], [1.75, -1.25, 0.75], [5.75, 0.25, 2.5], [4.25, -1.75, 0.25]]
    np.testing.assert_allclose(found.centroid, by_hand)
    none = VoxelClusters(GRID)(np.zeros((0, 3), np.int32), np.zeros(0, np.uint8))
    assert (len(none.group), len(none.size), none.centroid.shape) == (0, 0, (0, 3))


STATE = np.array([[[SURFACE, FREE], [COMPLETED, SURFACE]], [[SURFACE, SURFACE], [FREE, FREE]]])
# Occupied, in order: (0,0,0), (0,1,0), (0,1,1), (1,0,0), (1,0,1).


def found(phrase: str, voxels: list[int], score: list[float]) -> PhraseMatches:
    said = np.array(score, np.float32)
    return PhraseMatches(phrase, np.array(voxels, np.int32), said, said / 2.0)


def test_a_voxel_answers_each_phrase_once_by_the_image_that_says_it_best() -> None:
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
