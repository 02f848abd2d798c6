import numpy as np

from scene_completion_ros.mapping.matches import all_matches
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches
from tests.mapping.small_voxels import COMPLETED, FREE, SURFACE, voxels_of

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
