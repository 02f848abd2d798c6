"""Samples follow from their number; a training has sources."""

from functools import partial
from pathlib import Path

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.masked_scene.data import MaskSettings, SceneData, SceneDataSettings, SceneSamples
from scene_completion_training.masked_scene.views import SceneViewSettings, keep_points, point_views
from tests.training.points.rooms import room

MASK = MaskSettings(8, 0.4)


def samples(folder: Path, seed: int = 0) -> SceneSamples:
    files = keep_points({scene.name: scene for scene in (room(0), room(1), room(2))}, folder)
    views = partial(point_views, settings=SceneViewSettings(points=2000), voxel_size=0.1, shift=8)
    return SceneSamples([files[:2], files[2:]], [1.0, 2.0], views, MASK, seed=seed, length=8)


def test_samples_follow_from_seed_and_number(tmp_path: Path) -> None:
    drawn = samples(tmp_path)
    again, other = samples(tmp_path), samples(tmp_path, seed=1)
    assert len(drawn) == 8
    for name, value in drawn[3].items():
        assert torch.equal(value, again[3][name])
    assert all(not torch.equal(drawn[3]["student_index"], made["student_index"]) for made in (drawn[4], other[3]))


def test_no_source_is_no_training() -> None:
    with pytest.raises(ConfigurationError, match="names no scenes"):
        SceneData(SceneDataSettings(), SceneViewSettings(), MASK, steps=1, seed=0).setup("fit")
