from dataclasses import replace

import numpy as np
import pytest

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import OTHER, PhraseMatches, VoxelState, as_classes, matches_of_points
from tests.voxels.samples import street, voxels_of


def test_points_in_the_optical_frame() -> None:
    # Forward 0.25, left -1.75, up -0.75 is right 1.75, down 0.75, ahead 0.25.
    scene = voxels_of(np.full((4, 8, 4), VoxelState.SURFACE), (0.0, -2.0, -1.0), 0.5)
    np.testing.assert_allclose(scene.points_camera()[0], [1.75, 0.75, 0.25], atol=1e-6)
    pose = RigidTransform.from_quaternion((0.1, -0.2, 0.3, 0.9273618495495703), (1.0, 2.0, 3.0))
    scene = replace(scene, grid_from_camera=pose)
    np.testing.assert_allclose(pose.apply(scene.points_camera().astype(float)), scene.points_grid(), atol=1e-5)


WORDS = ("car", "tree")


def test_points_find_their_voxels_and_others_are_left_out() -> None:
    voxels = street()
    centres = voxels.points_grid()
    points = np.stack([centres[7], centres[3], [1000.0, 0.0, 0.0], [2.1, 0.1, 1.9], centres[5], [np.nan] * 3])
    assert not (np.abs(centres - points[3]) < 0.05).all(axis=1).any()  # a free voxel
    car, tree = matches_of_points(
        WORDS,
        voxels,
        np.concatenate([points, centres[[2, 7]]]),
        phrase=np.array([1, 0, 0, 0, 2, 0, 0, 0], dtype=np.uint8),  # the fifth is of no phrase
        score=np.array([0.3, 0.2, 0.9, 0.9, 0.9, 0.9, 0.1, 0.4]),
        probability=np.array([0.8, 0.6, 0.9, 0.9, 0.9, 0.9, 0.7, 0.5], dtype=np.float32),
    )
    assert (car.phrase, car.voxels.tolist()) == ("car", [2, 3, 7])
    assert car.score == pytest.approx([0.1, 0.2, 0.4]) and car.probability == pytest.approx([0.7, 0.6, 0.5])
    assert (tree.phrase, tree.voxels.tolist()) == ("tree", [7])
    assert tree.score == pytest.approx([0.3]) and tree.probability == pytest.approx([0.8])
    assert car.voxels.dtype == np.int32 and car.probability.dtype == np.float32
    none = np.empty(0, dtype=np.float32)
    found = matches_of_points(WORDS, street(), none.reshape(0, 3), none.astype(np.uint8), none, none)
    assert [(matches.phrase, matches.voxels.size) for matches in found] == [("car", 0), ("tree", 0)]


def test_the_most_likely_phrase_becomes_the_class() -> None:
    voxels = street()
    car = np.array([0.5, 0.6, 0.49, 0.8], dtype=np.float32)
    tree = np.array([0.4, 0.9, 0.3, 0.7], dtype=np.float32)
    places = np.arange(4, dtype=np.int32)
    classes = as_classes(voxels, [PhraseMatches("car", places, car, car), PhraseMatches("tree", places, tree, tree)])
    assert classes.label[:5].tolist() == [1, 2, 0, 1, 0]
    assert classes.confidence[:2] == pytest.approx([0.5, 0.9])
    assert classes.class_names == (OTHER, *WORDS)
    assert len(set(classes.class_colours)) == 3
    assert np.array_equal(classes.index, voxels.index)
