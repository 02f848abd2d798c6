"""Linear probes: what they find, and that what they probe stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scene_completion_training.evaluation import linear_probe
from scene_completion_training.evaluation.linear_probe import fit_linear_probe, probe_models, probed
from scene_completion_training.evaluation.open_vocabulary import (
    COMMON,
    SEMANTIC_KITTI,
    OpenVocabularyObservation,
)
from scene_completion_training.evaluation.open_vocabulary_models import FieldFeatures
from scene_completion_training.evaluation.semantic_models import FeatureFieldModel
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.viewpoint import STREET_CAMERA
from sklearn.linear_model import LogisticRegression

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import SEMANTIC_KITTI_CLASSES
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from tests.training.evaluation.one_wall import Wall, make_street, true_voxels
from tests.training.evaluation.test_open_vocabulary import ALL, Painted, evaluate_models, with_labels


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_probe, "STEPS", 30)


@pytest.fixture(scope="module")
def two_classes() -> PosedSequence:
    """The left half of the wall is a car, as it looks, the right half a building."""
    street = make_street()
    truth = true_voxels(street)
    x = truth.grid_from_camera.inverse().apply(truth.grid.centres().astype(np.float64))[..., 0]
    return with_labels(street, lambda label: np.where((label > 0) & (x >= 1.0), 13, label))


@pytest.mark.usefixtures("few_steps")
def test_separable_features_are_told_apart(two_classes: PosedSequence) -> None:
    probe = probe_models([Painted()], [two_classes], COMMON)[0]
    scores = evaluate_models([(Painted(), probe)], [two_classes], COMMON, 0.5)[0]
    assert scores.given[ALL].mean_iou == 1.0 and scores.words == {}
    assert {name for name, iou in scores.given[ALL].class_iou.items() if iou == 1.0} == {"car", "building"}
    assert scores.completion[ALL].mean_iou_of_present == 1.0


def test_it_finds_what_a_logistic_regression_finds() -> None:
    """Inputs of very different scales, four classes that overlap."""
    random = np.random.default_rng(0)
    centres, scale = random.normal(size=(4, 12)) * 1.2, 10.0 ** random.uniform(-3, 3, 12)
    classes = random.integers(0, 4, 6000)
    values = ((centres[classes] + random.normal(size=(6000, 12)) + 5.0) * scale).astype(np.float32)
    probe = fit_linear_probe(values[:4000], classes[:4000], 6)
    labels = (values[4000:] @ probe.weight.T + probe.bias).argmax(axis=1)
    reference = LogisticRegression(max_iter=500).fit(values[:4000] / scale, classes[:4000])
    accuracy = (labels == classes[4000:]).mean()
    assert accuracy > 0.8
    assert accuracy == pytest.approx(reference.score(values[4000:] / scale, classes[4000:]), abs=0.02)
    again = fit_linear_probe(values[:4000], classes[:4000], 6)
    assert np.array_equal(again.weight, probe.weight) and np.array_equal(again.bias, probe.bias)


@pytest.mark.usefixtures("few_steps")
def test_voxels_without_a_feature_are_neither_learned_from_nor_labelled(two_classes: PosedSequence) -> None:
    model = Painted(knows=lambda points: points[:, 1] > 0.0)
    probe = probe_models([model], [two_classes], SEMANTIC_KITTI)[0]
    found = evaluate_models([(model, probe)], [two_classes], SEMANTIC_KITTI, 0.5)[0].given[ALL]
    assert 0 < found.without_feature < found.voxels and found.released_mean_iou == pytest.approx(2 / 19)
    assert found.mean_accuracy < 1.0
    seen = model.observe(two_classes, 0)
    points = np.array([[0.0, 1.0, 10.0], [0.0, -1.0, 10.0]], np.float32)
    assert probed(seen, points)[1].tolist() == [True, False]
    units = OpenVocabularyObservation(seen.observation, seen.features, units=lambda p: np.ones((len(p), 5), np.float32))
    assert probed(units, points)[0].shape == (2, 5) and probed(units, points)[1].all()


def test_too_few_classes_are_refused(street: PosedSequence) -> None:
    with pytest.raises(ConfigurationError, match="fewer than two classes"):
        probe_models([Painted()], [street], COMMON)[0]
    with pytest.raises(ConfigurationError, match="no voxel is labelled"):
        probe_models([Painted()], [make_street(("lidar",))], COMMON)[0]


@pytest.mark.usefixtures("few_steps")
def test_probing_changes_no_statistics(two_classes: PosedSequence) -> None:
    """S6: in the released code the "frozen" network's running statistics drift while it is probed."""
    torch.manual_seed(0)
    field = FeatureField(DensityField(STREET_CAMERA), target_size=8, channels=4, units=6, expansion=5).train()
    before = {name: value.clone() for name, value in field.state_dict().items()}
    model = FieldFeatures(FeatureFieldModel(field, "mine", density=Wall()))
    probe = probe_models([model], [two_classes], SEMANTIC_KITTI)[0]
    evaluate_models([(model, probe)], [two_classes], SEMANTIC_KITTI, 0.5)[0]
    assert probe.weight.shape == (len(SEMANTIC_KITTI_CLASSES) - 1, 6) and probe.weight.any()
    statistics = [name for name, _ in field.named_buffers() if "running" in name or "num_batches" in name]
    assert len(statistics) > 10
    for name, value in field.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(weight.grad is None for weight in field.parameters())
