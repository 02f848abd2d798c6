"""Linear probes: what they find."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_training.evaluation.probes import fit_linear_probe
from scene_completion_training.evaluation.voxel_features import NetworkFeatures, SceneFrame, SceneRecord
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene, feature_names
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet
from tests.training.evaluation.one_wall import make_street
from tests.training.masked_scene.small_scenes import random_places, scene_of
from tests.training.saved_checkpoint import save_checkpoint


def test_it_finds_what_a_logistic_regression_finds() -> None:
    """Inputs of very different scales, four classes that overlap."""
    random = np.random.default_rng(0)
    centres, scale = random.normal(size=(4, 12)) * 1.2, 10.0 ** random.uniform(-3, 3, 12)
    classes = random.integers(0, 4, 6000)
    values = ((centres[classes] + random.normal(size=(6000, 12)) + 5.0) * scale).astype(np.float32)
    probe = fit_linear_probe(values[:4000], classes[:4000], 6, seed=0, steps=1000)
    reference = LogisticRegression(max_iter=500).fit(values[:4000] / scale, classes[:4000])
    accuracy = (probe.labels(values[4000:]) == classes[4000:]).mean()
    assert accuracy > 0.8
    assert accuracy == pytest.approx(reference.score(values[4000:] / scale, classes[4000:]), abs=0.02)
    again = fit_linear_probe(values[:4000], classes[:4000], 6, seed=0, steps=1000)
    assert np.array_equal(again.weight, probe.weight) and np.array_equal(again.bias, probe.bias)
    with pytest.raises(ConfigurationError, match="3 voxels of fewer than two classes"):
        fit_linear_probe(np.ones((3, 2), np.float32), np.ones(3, np.int64), 4, seed=0, steps=1)


SETTINGS = HUNetSettings(len(FEATURES), (8, 12), (8, 12))
RECORD = SceneRecord(FEATURES, 0.2)


def network(seed: int = 0) -> VoxelHUNet:
    torch.manual_seed(seed)
    return VoxelHUNet(SETTINGS)


def scene(units: int = 0) -> VoxelScene:
    index = random_places(60, (8, 8, 4))
    features = np.random.default_rng(1).uniform(size=(60, len(FEATURES) + units)).astype(np.float32)
    return dataclasses.replace(scene_of(index), features=features, columns=feature_names(units))


def frame(of: VoxelScene) -> SceneFrame:
    return SceneFrame(make_street(()), 0, of)


def test_a_network_says_of_a_voxel_what_its_finest_level_says_there() -> None:
    """On level 1 a centre is that of its voxel; on level 2 it lies between several. Further columns do not matter."""
    of, net = scene(units=3), network()
    rows = np.array([7, 50, 7, 0])
    model = NetworkFeatures(net, RECORD, "mine")
    fine, coarse = model.features(frame(of), rows)
    voxels, order = VoxelSet.of(functional.pad(torch.from_numpy(of.index.astype(np.int64)), (1, 0)), of.grid.shape)
    with torch.inference_mode():
        decoded = net(torch.from_numpy(of.features[:, :5])[order], Pyramid.of(voxels, 2))
    expected = np.empty((60, 8), np.float32)
    expected[order.numpy()] = functional.layer_norm(decoded[0], (8,)).numpy()
    assert fine == pytest.approx(expected[rows], abs=1e-5)
    assert coarse.shape == (4, 12) and np.array_equal(coarse[0], coarse[2])
    assert np.square(coarse).mean(axis=1) == pytest.approx(1.0, abs=1e-3)  # each level weighs the same in a cosine
    turned = dataclasses.replace(of, index=of.index[::-1], features=of.features[::-1])
    assert model.features(frame(turned), 59 - rows)[1] == pytest.approx(coarse, abs=1e-5)


def test_a_network_of_other_scenes_is_refused(tmp_path: Path) -> None:
    data = {"voxel_size": 0.2, "student": ""}
    remembered = {"columns": list(FEATURES), "network": SETTINGS.plain(), "data": data, "steps": 7}
    file = save_checkpoint(tmp_path / "last.ckpt", network(), "masked_scene", **remembered)
    model = NetworkFeatures.open(file, "mine")
    assert model.features(frame(scene()), np.array([1]))[0].shape == (1, 8)
    coarse = dataclasses.replace(scene(), grid=VoxelGrid((0.0, 0.0, 0.0), 0.4, (8, 8, 4)))
    with pytest.raises(ConfigurationError, match=r"its voxels have 0\.4 m, those .* 0\.2 m"):
        model.features(frame(coarse), np.array([1]))
    with_units = NetworkFeatures(network(), dataclasses.replace(RECORD, columns=feature_names(2)), "mine")
    with pytest.raises(ConfigurationError, match=r"it has the features prob.*; the network was trained on .*unit_001"):
        with_units.features(frame(scene()), np.array([1]))
