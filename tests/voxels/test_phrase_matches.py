from __future__ import annotations

import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.voxels.phrase_matches import OTHER, PhraseMatches, phrase_colours
from tests.report.scenes import street

WORDS = ("car", "tree")


def test_points_find_their_voxels_and_others_are_left_out() -> None:
    voxels = street()
    centres = voxels.points_grid()
    points = np.stack([centres[7], centres[3], [1000.0, 0.0, 0.0], [2.1, 0.1, 1.9], centres[5], [np.nan] * 3])
    assert not (np.abs(centres - points[3]) < 0.05).all(axis=1).any()  # a free voxel
    matches = PhraseMatches.of_points(
        WORDS,
        voxels,
        points,
        phrase=np.array([1, 0, 0, 0, 2, 0], dtype=np.uint8),  # the fifth is of no phrase
        score=np.array([0.3, 0.2, 0.9, 0.9, 0.9, 0.9]),
        probability=np.array([0.8, 0.6, 0.9, 0.9, 0.9, 0.9], dtype=np.float32),
    )
    assert len(matches) == len(voxels)
    assert [tuple(place) for place in np.argwhere(matches.probability)] == [(0, 3), (1, 7)]
    assert (matches.probability[0, 3], matches.score[0, 3]) == (np.float32(0.6), np.float32(0.2))
    assert (matches.probability[1, 7], matches.score[1, 7]) == (np.float32(0.8), np.float32(0.3))


def test_without_points_nothing_matches() -> None:
    none = np.empty(0, dtype=np.float32)
    matches = PhraseMatches.of_points(WORDS, street(), none.reshape(0, 3), none.astype(np.uint8), none, none)
    assert not matches.probability.any()


def test_the_most_likely_phrase_becomes_the_class() -> None:
    voxels = street()
    probability = np.zeros((2, len(voxels)), dtype=np.float32)
    probability[:, 0], probability[:, 1], probability[:, 2] = (0.5, 0.4), (0.6, 0.9), (0.49, 0.3)
    classes = PhraseMatches(WORDS, probability, probability).as_classes(voxels)
    assert classes.label[:4].tolist() == [1, 2, 0, 0]
    assert classes.class_names == (OTHER, *WORDS)
    assert len(set(classes.class_colours)) == 3
    assert np.array_equal(classes.index, voxels.index)


def test_shapes_that_contradict_each_other_are_refused() -> None:
    right, wrong = np.zeros((2, 5), np.float32), np.zeros((3, 5), np.float32)
    for score, probability in ((right, wrong), (wrong, wrong), (right[0], right[0]), (right, right[:, :4])):
        with pytest.raises(GridError, match=r"PhraseMatches\.(score|probability)"):
            PhraseMatches(WORDS, score, probability)


def test_colours_of_phrases_differ() -> None:
    assert len(set(phrase_colours(32))) == 32
