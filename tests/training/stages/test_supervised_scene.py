"""A network of voxels learns from labels where a student is wrong; frozen, its head alone does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.evaluation.refined_model import RefinedModel
from scene_completion_training.evaluation.voxel_features import NetworkFeatures
from scene_completion_training.masked_scene.data import SceneDataSettings, SceneSource
from scene_completion_training.masked_scene.labels import refined_probability
from scene_completion_training.masked_scene.network import open_network
from scene_completion_training.masked_scene.scenes import FEATURES, SceneMaker, VoxelScene
from scene_completion_training.masked_scene.views import SceneViewSettings
from scene_completion_training.runner import make_stage, train
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.stages.supervised_scene import SupervisedSceneConfiguration, SupervisedSceneStage
from tests.inference.small_bundle import make_small_bundle
from tests.training.evaluation.one_wall import make_street
from tests.training.killed_training import resumed_weights
from tests.training.masked_scene.small_scenes import scene_of
from tests.training.saved_checkpoint import save_checkpoint

SHAPE, STATED = (32, 32, 8), 0.4
SIZE = HUNetSettings(len(FEATURES), (8, 12), (8, 12))


def hand_made(seed: int) -> VoxelScene:
    """Solid blocks, which are there, and single voxels, which are not; the student says the same of all of them."""
    generator = np.random.default_rng(seed)
    block = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
    index, label = [], []
    for cell in np.ndindex(8, 8, 2):
        kind = generator.random()
        if kind < 0.7:
            places = 4 * np.array(cell) + (block if kind < 0.05 else np.array([[1, 1, 1]]))
            index.append(places)
            label.append(np.full(len(places), 1 if kind < 0.05 else 0, np.uint8))
    scene = scene_of(np.concatenate(index), SHAPE, name=f"hand made {seed}", label=np.concatenate(label))
    scene.features[:, 0] = STATED
    return scene


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SupervisedSceneConfiguration]:
    """Configurations of trainings of a few steps on such scenes."""
    make_small_bundle(tmp_path / "student")
    make_street().save(tmp_path / "street")
    monkeypatch.setattr(SceneMaker, "scene", lambda self, index: hand_made(index))

    def configured(output: str, **changes: Any) -> SupervisedSceneConfiguration:
        settings: dict[str, Any] = {
            "steps": 4,
            "warmup": 1,
            "checkpoint_every": 2,
            "seed": 1,
            "data": SceneDataSettings(
                root=str(tmp_path),
                cache=str(tmp_path / "cache"),
                sources=[SceneSource("street", kinds=["predicted"], frames=[0, 1, 2, 3])],
                student=str(tmp_path / "student"),
                workers=0,
            ),
            "views": SceneViewSettings(voxels=600),
            "network": SIZE,
            "output": str(tmp_path / output),
        }
        return SupervisedSceneConfiguration(**settings | changes)

    return configured


def pretrained(folder: Path, **changes: Any) -> Path:
    """A checkpoint as of stage `masked_scene`."""
    torch.manual_seed(5)
    remembered = {"columns": list(FEATURES), "network": SIZE.plain(), "steps": 7}
    data = {"voxel_size": 0.2, "student": "auto"} | changes.pop("data", {})
    return save_checkpoint(folder / "3.ckpt", VoxelHUNet(SIZE), "masked_scene", **remembered | {"data": data} | changes)


def log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    return float(-np.log(np.where(label > 0, probability, 1.0 - probability)).mean())


Configured = Callable[..., SupervisedSceneConfiguration]


@pytest.mark.parametrize("frozen", [False, True])
def test_what_can_be_learned_of_a_student_is_learned(small: Configured, frozen: bool) -> None:
    """Blocks are there and single voxels are not, in a scene that was not trained on; at first it is the student."""
    scene = hand_made(9)
    assert scene.label is not None
    network = dataclasses.replace(SIZE, encoder=(16, 24), decoder=(16, 24))
    given = small("run", steps=30, checkpoint_every=30, frozen=frozen, learning_rate=5e-3, network=network)
    untrained = make_stage(given)
    assert isinstance(untrained, SupervisedSceneStage) and not any(part.any() for part in untrained.head.parameters())
    refined = RefinedModel.open(train(given, threads=1), "refined", threads=1)
    after = refined_probability(scene.features[:, 0], refined.corrections(scene))
    before = log_loss(scene.features[:, 0], scene.label)
    assert log_loss(after, scene.label) < (0.75 if frozen else 0.5) * before
    assert ((after > 0.5) == (scene.label > 0)).mean() > (0.8 if frozen else 0.95)


def test_a_frozen_network_stays_and_another_one_moves(small: Configured, tmp_path: Path) -> None:
    given = pretrained(tmp_path)
    weights = open_network(given)[0].state_dict()
    named = str(given.with_name("{seed}.ckpt"))  # of seed 3
    for frozen in (True, False):
        configuration = small(f"frozen {frozen}", start_from=named, seed=3, frozen=frozen)
        stored = Checkpoint.read(train(configuration, threads=1))
        moved = {name for name, value in weights.items() if not torch.equal(stored.state[name], value)}
        assert set(stored.state) == set(weights) and bool(moved) is not frozen
        assert stored.head["weight"].any() and stored.configuration["start_from"] == str(given)


def test_no_gradient_is_computed_for_a_frozen_network(small: Configured) -> None:
    for frozen in (True, False):
        stage = make_stage(small("run", frozen=frozen))
        assert isinstance(stage, SupervisedSceneStage)
        data = stage.make_data()
        data.setup("fit")
        torch.nn.init.ones_(stage.head.weight)
        (loss,) = stage.terms(next(iter(data.train_dataloader())), torch.Generator()).values()
        torch.autograd.backward(loss)
        learned = {name for name, value in stage.named_parameters() if value.grad is not None}
        assert {"head.weight", "head.bias"} <= learned
        assert any(name.startswith("field.") for name in learned) is not frozen


def test_trained_classes_can_be_probed(small: Configured) -> None:
    checkpoint = train(small("run", target="classes"), threads=1)
    features = NetworkFeatures.open(checkpoint, "supervised", 0.2).features_of(hand_made(9), np.array([3, 0]))
    assert [level.shape for level in features] == [(2, 8), (2, 12)]
    assert Checkpoint.read(checkpoint).head["weight"].shape == (15, 20)
    with pytest.raises(BundleError, match="its stage is supervised_scene, and it refines no student"):
        RefinedModel.open(checkpoint, "supervised")


def test_a_killed_training_goes_on_to_the_same_weights(small: Configured, tmp_path: Path) -> None:
    given = str(pretrained(tmp_path))
    whole = Checkpoint.read(train(small("whole", start_from=given), threads=1))
    resumed = resumed_weights(small("killed", start_from=given))
    for name, value in whole.state.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6, msg=name)
    head = Checkpoint.read(tmp_path / "killed" / "checkpoints" / "last.ckpt").head
    torch.testing.assert_close(head["weight"], whole.head["weight"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({"data": {"voxel_size": 0.4}}, r"trained on voxels of 0\.4 m, and is asked for 0\.2 m"),
        ({"columns": ["probability", "seen"]}, "trained on probability, seen; the scenes have probability, red"),
    ],
)
def test_a_network_of_other_scenes_is_refused(
    small: Configured, tmp_path: Path, trained: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make_stage(small("run", start_from=str(pretrained(tmp_path, **trained))))


def test_scenes_without_labels_are_refused(small: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SceneMaker, "scene", lambda self, index: dataclasses.replace(hand_made(index), label=None))
    with pytest.raises(ConfigurationError, match="scene hand made 0: its frame has no ground truth"):
        train(small("run"), threads=1)


def test_what_cannot_be_trained_is_refused(small: Configured) -> None:
    given = small("run")
    exact = [dataclasses.replace(given.data.sources[0], kinds=["exact", "predicted"])]
    with pytest.raises(
        ConfigurationError, match=r"data\.sources: exact, predicted: only predicted voxels may be wrong"
    ):
        make_stage(small("run", data=dataclasses.replace(given.data, sources=exact)))
    with pytest.raises(ConfigurationError, match=r"threshold: 0\.9 is no probability .* up to the student's 0\.5"):
        train(small("run", data=dataclasses.replace(given.data, threshold=0.9)), threads=1)
    with pytest.raises(ConfigurationError, match="views: "):
        make_stage(small("run", views=SceneViewSettings(voxels=0)))
