"""Probes of points and their scores: what linear layers and the nearest find, from which labels and levels."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_training.evaluation import probes


def test_a_linear_probe_finds_what_a_logistic_regression_finds() -> None:
    """Inputs of very different scales, four classes that overlap."""
    random = np.random.default_rng(0)
    centres, scale = random.normal(size=(4, 12)) * 1.2, 10.0 ** random.uniform(-3, 3, 12)
    classes = random.integers(0, 4, 6000)
    values = ((centres[classes] + random.normal(size=(6000, 12)) + 5.0) * scale).astype(np.float32)
    probe = probes.fit_linear_probe(values[:4000], classes[:4000], 6, steps=1000)
    reference = LogisticRegression(max_iter=500).fit(values[:4000] / scale, classes[:4000])
    accuracy = (probe.labels(values[4000:]) == classes[4000:]).mean()
    assert accuracy > 0.8
    assert accuracy == pytest.approx(reference.score(values[4000:] / scale, classes[4000:]), abs=0.02)
    one, again = (probes.fit_linear_probe(values[:4000], classes[:4000], 6, steps=20) for _ in range(2))
    assert np.array_equal(again.weight, one.weight) and np.array_equal(again.bias, one.bias)
    with pytest.raises(ConfigurationError, match="3 labels of 1 of . classes, where a probe needs two"):
        probes.fit_linear_probe(np.ones((3, 2), np.float32), np.ones(3, np.int64), 4)


def unit(*degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_votes_worked_by_hand() -> None:
    """At 0 degrees the nearest is of class 0, at 10; of the three nearest, two of class 1 at 20 and -20 outweigh it:
    2 exp(cos 20 / 0.07) > exp(cos 10 / 0.07), as 2 * exp(13.42) > exp(14.07)."""
    bank, classes = unit(10, 20, -20, 90), np.array([0, 1, 1, 2])
    values = 5.0 * unit(0, 80)  # length does not matter
    assert probes.NearestProbe(bank, classes, 3, 1).labels(values).tolist() == [0, 2]
    assert probes.NearestProbe(bank, classes, 3, 3).labels(values).tolist() == [1, 2]
    assert probes.NearestProbe(bank, classes, 3, 20).labels(values).tolist() == [1, 2]


def separable(scenes: int = 10, points: int = 40) -> probes.Labelled:
    """Level 1 is noise; level 2 distinguishes two classes."""
    random = np.random.default_rng(0)
    classes = np.tile([0, 1], scenes * points // 2)
    telling = np.stack([classes * 2.0 - 1.0, random.normal(0.0, 0.1, len(classes))], axis=1)
    noise = random.normal(size=(len(classes), 2))
    scene, rank = np.repeat(np.arange(scenes), points), np.tile(np.arange(points), scenes)
    return probes.Labelled(("a", "b"), (noise, telling), classes, np.zeros((len(classes), 3), np.float32), scene, rank)


def test_probes_see_the_levels_and_labels_that_they_are_named_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = separable()
    monkeypatch.setattr(probes, "PROBE_STEPS", 60)
    monkeypatch.setattr(probes, "SHARES", (1, 10, 50))
    monkeypatch.setattr(probes, "FEW_POINTS", (4,))
    found = list(probes.fit_probes("mine", labelled, ablations=True))
    assert capsys.readouterr().out == "mine: 1 % of 10 scenes are none; name 100 for this row\n"
    linear = [probe for probe in found if ", linear" in probe.name]
    of_levels = [", level 1 alone", ", all but level 1", ", level 2 alone", ", all but level 2"]
    names = [probe.name.removeprefix("mine, linear") for probe in linear]
    assert names == ["", *of_levels, ", 10 % of the scenes", ", 50 % of the scenes", ", 4 points a scene"]
    monkeypatch.setattr(probes, "_AT_ONCE", 150)  # points are labelled in parts
    right = {probe.name: float((probe.labels(labelled.levels) == labelled.classes).mean()) for probe in found}
    assert right["mine, linear"] == right["mine, linear, 10 % of the scenes"] == 1.0
    assert right["mine, 1 nearest, level 2 alone"] == 1.0
    assert right["mine, linear, level 1 alone"] < 0.7
    monkeypatch.setattr(probes, "FEW_POINTS", (1,))
    with pytest.raises(
        ConfigurationError, match="mine, 1 points a scene: 10 labels of 1 of . classes, where a probe needs two"
    ):
        list(probes.fit_probes("mine", labelled, ablations=True))


def test_the_average_of_heads_is_that_of_their_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a head that distinguishes the classes, and one that hardly does."""
    monkeypatch.setattr(probes, "PROBE_STEPS", 20)
    average = "average of the heads' logits"
    noise, telling = separable().levels
    labelled = dataclasses.replace(separable(), levels=(noise, telling, noise))
    found = {
        probe.name: probe.probe.logits(probes.side_by_side(labelled.levels, probe.levels))
        for probe in probes.fit_head_probes(labelled, ["text", "dino"])
    }
    assert set(found) == {f"probe, {name}" for name in ("trunk", "head text", "head dino", "concatenation", average)}
    mean = (found["probe, head text"] + found["probe, head dino"]) / 2.0
    np.testing.assert_allclose(found[f"probe, {average}"], mean, atol=1e-5)
    assert not np.allclose(found["probe, head text"], found["probe, head dino"], atol=0.1)


def test_network_and_pixels_together_by_hand() -> None:
    """Three points: the network is nearer, the pixels are, and no view sees the last one."""
    network = np.array([[0.9, 0.2], [0.5, 0.4], [0.1, 0.3]], np.float32)
    lifted = np.array([[0.3, 0.7], [0.2, 0.6], [-np.inf, -np.inf]], np.float32)
    found = probes.ensembled(network, lifted)
    np.testing.assert_allclose(found["mean"], [[0.6, 0.45], [0.35, 0.5], [0.1, 0.3]])
    np.testing.assert_allclose(found["max"], [[0.9, 0.2], [0.2, 0.6], [0.1, 0.3]])


def test_s4_the_raw_mean_follows_the_longer_feature() -> None:
    """Lifted features of length 4 decide for their class, the same of length 0.4 do not; the other means ignore it."""
    network, lifted = np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([[0.4, 4.0], [0.04, 0.4]])
    found = probes.labels_by_words(network, np.eye(2, dtype=np.float32), lifted)
    assert found["2D and 3D, raw mean"].tolist() == [1, 0]
    assert len(set(found["2D and 3D, mean"].tolist())) == len(set(found["2D and 3D, max"].tolist())) == 1


def test_ambiguity_is_the_mean_of_all_points_that_two_views_see() -> None:
    tally = probes.AmbiguityTally(("a", "b", "c"))
    tally.add((np.array([0.1, 0.3, np.nan], np.float32), np.array([0, 0, 1])))
    tally.add((np.array([0.5, 0.7], np.float32), np.array([1, -1])))
    (row,) = tally.rows()
    assert row["variance"] == pytest.approx(0.4) and row["points"] == 4
    assert row["class_variance"] == pytest.approx({"a": 0.2, "b": 0.5, "c": np.nan}, nan_ok=True)


def test_scores_of_points_by_hand() -> None:
    """Class 0: 2 of 3 found, one of them without a feature; class 1: found, with one too many; class 2 is nowhere."""
    scores = Scores([probes.POINTS])
    method = probes.ScoredMethod("m", ("floor", "wall", "door"))
    scores.add("rooms", method, probes.ProbeAnswer(np.array([0, 0, 3]), np.array([0, 0, 0])))
    scores.add("rooms", method, probes.ProbeAnswer(np.array([1, 1, 2]), np.array([1, -1, 1])))
    (row,) = scores.rows("points")
    assert row["frames"] == 2 and row["voxels"] == 5 and row["without_feature"] == 1
    assert row["class_iou"] == {"floor": pytest.approx(2 / 3), "wall": pytest.approx(1 / 2), "door": 0.0}
    assert row["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert row["mean_iou_of_all"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert row["released_mean_iou"] == pytest.approx((1 + 1 / 2) / 3)  # the point without a feature is gone
    assert row["mean_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert row["accuracy"] == pytest.approx(3 / 5)
    assert "| m | 2 |" in scores.markdown()


def test_a_bank_has_as_many_features_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three, five and no features of a class, two, two and none; lengths are one."""
    monkeypatch.setattr(probes, "BANK", 2)
    classes = np.array([0, 1, 1, 1, 0, 1, 1, 0])
    probe = probes.fit_nearest(7.0 * unit(*range(8)), classes, 3, 1)
    assert probe.classes.tolist() == [0, 0, 1, 1]
    found = np.rad2deg(np.arctan2(probe.bank[:, 1], probe.bank[:, 0])).round().astype(int)
    assert len(set(found)) == 4 and classes[found].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(np.linalg.norm(probe.bank, axis=1), 1.0, rtol=1e-6)
