"""Samples follow from their number, and show the same voxels twice."""

from functools import partial
from pathlib import Path

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.masked_scene.data import MaskSettings, SceneData, SceneDataSettings, SceneSamples
from scene_completion_training.masked_scene.views import SceneViewSettings, voxel_views
from tests.training.masked_scene.small_scenes import random_places, scene_of

SHAPE = (32, 32, 8)
MASK = MaskSettings(8, 0.4)


def samples(folder: Path, seed: int = 0) -> SceneSamples:
    files = [folder / f"{number}.safetensors" for number in range(3)]
    for number, file in enumerate(files):
        scene_of(random_places(300, SHAPE, seed=number), SHAPE).save(file)
    views = partial(voxel_views, settings=SceneViewSettings(), edge=32)
    return SceneSamples([files[:2], files[2:]], [1.0, 2.0], views, MASK, seed=seed, length=8)


def test_samples_follow_from_seed_and_number(tmp_path: Path) -> None:
    drawn = samples(tmp_path)
    again, other = samples(tmp_path), samples(tmp_path, seed=1)
    assert len(drawn) == 8
    for name, value in drawn[3].items():
        assert torch.equal(value, again[3][name])
    assert any(not torch.equal(drawn[3]["student_index"], made["student_index"]) for made in (drawn[4], other[3]))


def test_both_views_show_the_same_voxels_and_one_hides_some(tmp_path: Path) -> None:
    sample = samples(tmp_path)[0]
    count = len(sample["masked"])
    assert sample["student_index"].shape == sample["teacher_index"].shape == (count, 3)
    assert torch.equal(sample["student_index"][:, 2], sample["teacher_index"][:, 2])
    assert 0 < int(sample["masked"].sum()) < count
    for name in ("student", "teacher"):
        assert torch.equal(sample[f"{name}_points"], sample[f"{name}_index"][sample["masked"]] + 0.5)


def test_no_recording_is_no_training() -> None:
    with pytest.raises(ConfigurationError, match="names no recording"):
        SceneData(SceneDataSettings(), SceneViewSettings(), MASK, step=8, steps=1, seed=0).setup("fit")
