"""Samples follow from their number; batches keep scenes apart; voxels of two sizes are not mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.masked_scene.data import (
    MaskSettings,
    SceneData,
    SceneDataSettings,
    SceneSamples,
    SceneSource,
    in_one,
)
from scene_completion_training.masked_scene.views import SceneViewSettings
from tests.training.evaluation.one_wall import make_street
from tests.training.masked_scene.small_scenes import random_places, scene_of

SHAPE = (32, 32, 8)
MASK = MaskSettings(8, 0.4)


def samples(folder: Path, seed: int = 0) -> SceneSamples:
    files = [folder / f"{number}.safetensors" for number in range(3)]
    for number, file in enumerate(files):
        scene_of(random_places(300, SHAPE, seed=number), SHAPE).save(file)
    return SceneSamples([files[:2], files[2:]], [1.0, 2.0], SceneViewSettings(), MASK, edge=32, seed=seed, length=8)


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


def test_a_batch_numbers_its_scenes(tmp_path: Path) -> None:
    drawn = samples(tmp_path)
    batch = in_one([drawn[0], drawn[1]])
    first = len(drawn[0]["masked"])
    assert batch["teacher_index"].shape[1] == 4
    assert not batch["student_index"][:first, 0].any() and (batch["student_index"][first:, 0] == 1).all()
    assert torch.equal(batch["student_index"][first:, 1:], drawn[1]["student_index"])
    assert len(batch["masked"]) == len(batch["student_features"]) == len(batch["student_index"])


def test_voxels_of_another_size_are_refused(tmp_path: Path) -> None:
    make_street().save(tmp_path / "street")
    source = SceneSource("street", kinds=["exact"], frames=[0])
    settings = SceneDataSettings(root=str(tmp_path), cache=str(tmp_path / "cache"), sources=[source])
    data = SceneData(settings, SceneViewSettings(), MASK, step=8, steps=1, seed=0)
    with pytest.raises(ConfigurationError, match=r"voxel_size: voxels of one_wall/000000/exact have 0\.8 m, .* 0\.2"):
        data.setup("fit")


def test_no_recording_is_no_training() -> None:
    with pytest.raises(ConfigurationError, match="names no recording"):
        SceneData(SceneDataSettings(), SceneViewSettings(), MASK, step=8, steps=1, seed=0).setup("fit")
