"""Views show the same voxels, row by row, and one range."""

import dataclasses

import numpy as np

from scene_completion_training.masked_scene.scenes import VoxelScene
from scene_completion_training.masked_scene.views import COLOURS, SEEN, SceneViewSettings, sample_rows, view
from tests.training.masked_scene.small_scenes import random_places, scene_of

EDGE = 32
SETTINGS = SceneViewSettings()


def coloured(count: int = 400) -> VoxelScene:
    scene = scene_of(random_places(count, (EDGE, EDGE, 8)), (EDGE, EDGE, 8))
    generator = np.random.default_rng(1)
    features = generator.uniform(0.2, 0.8, (count, 5)).astype(np.float32)
    features[:, SEEN] = generator.random(count) < 0.6
    features[:, COLOURS] *= features[:, SEEN : SEEN + 1]
    return dataclasses.replace(scene, features=features)


def test_rows_keep_their_voxels() -> None:
    """Turned and mirrored, all pairs of voxels keep their distances, and eight different views occur."""
    scene = coloured()
    pair = scene.index[:-1].astype(int) - scene.index[1:]
    found = set()
    for seed in range(60):
        shown = view(scene.index, scene.features, EDGE, SETTINGS, np.random.default_rng(seed))
        place = shown.index
        np.testing.assert_array_equal(np.floor(shown.points), place[shown.voxel])
        turned = place[:-1] - place[1:]
        np.testing.assert_array_equal((turned[:, :2] ** 2).sum(axis=1), (pair[:, :2] ** 2).sum(axis=1))
        np.testing.assert_array_equal(place[:, 2], scene.index[:, 2])
        assert place.min() >= 0 and place[:, :2].max() < EDGE
        found.add(place.tobytes())
    assert len(found) == 8


def test_colours_change_where_there_are_any() -> None:
    scene = coloured()
    plain = dataclasses.replace(SETTINGS, dropped=0.0)
    changed = view(scene.index, scene.features, EDGE, plain, np.random.default_rng(0)).features
    seen = scene.features[:, SEEN] == 1.0
    assert (
        not changed[~seen][:, COLOURS].any() and (changed[seen][:, COLOURS] != scene.features[seen][:, COLOURS]).all()
    )
    assert changed[:, COLOURS].min() >= 0.0 and changed[:, COLOURS].max() <= 1.0
    np.testing.assert_array_equal(changed[:, [0, SEEN]], scene.features[:, [0, SEEN]])
    still = dataclasses.replace(plain, jitter=0.0)
    same = view(scene.index, scene.features, EDGE, still, np.random.default_rng(0))
    np.testing.assert_allclose(same.features, scene.features, atol=1e-6)


def test_some_voxels_lose_their_features() -> None:
    scene = coloured(2000)
    changed = view(scene.index, scene.features, EDGE, SETTINGS, np.random.default_rng(0)).features
    assert 0.15 < (changed == 0.0).all(axis=1).mean() < 0.25


def test_a_scene_beyond_all_ranges_is_shown_whole() -> None:
    scene = scene_of([[500, 0, 0], [501, 0, 0]], (512, 4, 4))
    assert sample_rows(scene, SETTINGS, np.random.default_rng(0)).tolist() == [0, 1]
