"""Masked scene modelling learns on every level, and stops where it collapses."""

from pathlib import Path
from typing import Any

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError, TrainingError
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.masked_scenes import (
    POINT_FEATURES,
    SceneDataSettings,
    SceneSource,
    SceneViewSettings,
)
from scene_completion_training.points.features import open_network
from scene_completion_training.runner import train
from scene_completion_training.sparse.hu_net import HUNetSettings
from scene_completion_training.stages import masked_scene
from scene_completion_training.stages.masked_scene import MaskedSceneConfiguration
from tests.training.points.rooms import save_rooms
from tests.training.small_trainings import FEW, curves


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rooms of points."""
    return save_rooms(tmp_path_factory.mktemp("points") / "rooms", range(3), step=0.08)


def small(rooms: Path, output: Path, **changes: Any) -> MaskedSceneConfiguration:
    """A training of a few steps on rooms."""
    root, cache = str(rooms.parent), str(rooms.parent / "cache")
    data = SceneDataSettings(root, [SceneSource(rooms.name)], voxel_size=0.1, cache=cache, workers=0, batch_size=2)
    network = HUNetSettings(len(POINT_FEATURES), (8, 12, 16), (8, 12, 16))
    settings = FEW | {"data": data, "views": SceneViewSettings(points=2000), "network": network, "output": str(output)}
    return MaskedSceneConfiguration(**settings | {"momentum": 0.9, "seed": 1} | changes)


def test_the_loss_falls_on_every_level_without_collapse(rooms: Path, tmp_path: Path) -> None:
    network = HUNetSettings(len(POINT_FEATURES), (16, 24, 32), (16, 24, 32))
    changes = {"steps": 64, "checkpoint_every": 64, "momentum": 0.95, "learning_rate": 3e-3, "network": network}
    checkpoint = train(small(rooms, tmp_path, **changes), threads=1)
    said = curves(tmp_path, "")

    def logged(name: str) -> list[float]:
        return [value for (of, _), value in said.items() if of == name]

    for level in range(3):
        losses = logged(f"loss/level_{level}")
        assert sum(losses[-8:]) < 0.9 * sum(losses[:8]), f"level {level}"
        assert min(logged(f"spread/level_{level}")[-10:]) > 0.3
        assert 1.0 < min(logged(f"rank/level_{level}")) <= max(logged(f"rank/level_{level}")) < network.decoder[level]
        assert logged(f"loss_of_mean/level_{level}")[-1] == pytest.approx(1.0, abs=0.25)
    trained, _ = open_network(checkpoint)
    assert trained.settings == network
    stored = Checkpoint.read(checkpoint)
    assert stored.record["scenes"] and stored.stage == "masked_scene" and not trained.training
    assert all(torch.equal(value, stored.state[name]) for name, value in trained.state_dict().items())


def test_collapse_ends_the_training(rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_scene, "LEAST_SPREAD", 2.0)
    monkeypatch.setattr(masked_scene, "PATIENCE", 3)
    settings = small(rooms, tmp_path, steps=8)
    with pytest.raises(TrainingError, match=r"step 2: the teacher gives nearly the same .* below 2 for 3 steps"):
        train(settings, threads=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch": 6}, "patch: patches of 6 voxels .* Take a multiple of 4"),
        ({"ratio": 0.0}, "masking, ratio: masking bottom_up of a share of 0. Take none and 0 together, or neither"),
        ({"masking": "none"}, "masking none of a share of 0.4"),
        ({"ratio": 1.5}, "ratio 1.5, momentum"),
        ({"momentum": 1.5}, "momentum 1.5"),
        ({"views": SceneViewSettings(points=0)}, "views: "),
        ({"data": SceneDataSettings()}, "names no scenes"),
    ],
)
def test_what_cannot_be_is_refused(rooms: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        train(small(rooms, tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"masking": "none", "ratio": 0.0, "directions": "one"},
        {"loss_on": "last", "predictor": True, "decorrelation": 0.5},
    ],
)
def test_the_loss_is_the_sum_of_its_parts(rooms: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    train(small(rooms, tmp_path, steps=2, **changes), threads=1)
    said = {name: value for (name, step), value in curves(tmp_path, "").items() if step == 1}
    counted = [said[f"loss/level_{level}"] for level in range(1 if changes.get("loss_on") == "last" else 3)]
    correlation = said.get("loss/correlation", 0.0)
    assert bool(correlation) == ("decorrelation" in changes)
    assert said["loss/total"] == pytest.approx(sum(counted) + 0.5 * correlation, abs=1e-4)
