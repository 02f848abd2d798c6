from __future__ import annotations

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.evaluation.voxel_probe import (
    READINGS,
    LabelledFeatures,
    ProbeSettings,
    fit_probes,
    score_probes,
)

NAMES = ("road", "car", "pole", "person")
QUICK = ProbeSettings(steps=60, bank=30, shares=(), voxels=(), each_level=False)


def at(*degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def scene(classes: np.ndarray, *levels: np.ndarray) -> LabelledFeatures:
    return LabelledFeatures(tuple(np.asarray(level, np.float32) for level in levels), np.asarray(classes, np.int64))


def drawn(seed: int, count: int = 300) -> LabelledFeatures:
    """The first level tells four classes apart, the second tells nothing."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 4, count)
    return scene(classes, np.eye(4)[classes] + 0.05 * random.normal(size=(count, 4)), random.normal(size=(count, 3)))


def test_scores_by_hand() -> None:
    """Road at 0°, cars at 90°. Of four road voxels one looks like a car; the one pole looks like the road.

    Road: 3 hits, 1 missed, 1 wrong: 3/5. Car: 2 hits, 1 wrong: 2/3. Pole: 0. No person: it counts in the second mean.
    """
    train = scene([0, 0, 1, 1], at(0, 5, 90, 95))
    test = scene([0, 0, 0, 0, 1, 1, 2], at(1, 2, 3, 91, 92, 93, 2))
    (probe,) = fit_probes([train], ["only"], 4, QUICK)
    (scores,) = score_probes([probe], [test], NAMES)
    assert (scores.variant.kind, scores.scenes, scores.voxels) == ("all", 1, 4)
    for reading in READINGS:
        found = scores.readings[reading]
        assert found.mean_iou == pytest.approx((3 / 5 + 2 / 3 + 0) / 3)
        assert found.mean_iou_of_all == pytest.approx((3 / 5 + 2 / 3 + 0 + 0) / 4)
        assert found.voxels == 7 and found.without_feature == 0


def test_separable_features_are_told_apart_and_each_level_says_what_it_holds() -> None:
    settings = ProbeSettings(steps=150, bank=50, shares=(), voxels=())
    probes = fit_probes([drawn(0), drawn(1)], ["told", "noise"], 4, settings)
    scores = {(one.variant.kind, one.variant.value): one.readings for one in score_probes(probes, [drawn(2)], NAMES)}
    assert list(scores) == [
        ("all", "all"), ("alone", "told"), ("alone", "noise"), ("without", "told"), ("without", "noise")
    ]  # fmt: skip
    assert all(scores["alone", "told"][reading].mean_iou == 1.0 for reading in READINGS)
    for reading in READINGS:
        assert scores["without", "noise"][reading] == scores["alone", "told"][reading]
        assert scores["alone", "noise"][reading].mean_iou < 0.4
    assert scores["all", "all"]["linear"].mean_iou == 1.0


def test_curves_take_the_first_of_one_order() -> None:
    """Of 7 scenes 20 % are 2 and 1 % is 1, which is among the 2; the first labelled voxels of each are taken."""
    scenes = [drawn(number, 40) for number in range(7)] + [drawn(0, 0)]
    settings = ProbeSettings(steps=2, bank=1000, shares=(0.01, 0.2), voxels=(5, 10_000), each_level=False)
    probes = fit_probes(scenes, ["told", "noise"], 4, settings, seed=3)
    assert [(p.variant.kind, p.variant.value, p.scenes, p.voxels) for p in probes] == [
        ("all", "all", 7, 280),
        ("scenes", "0.01", 1, 40),
        ("scenes", "0.2", 2, 80),
        ("voxels", "5", 7, 35),
        ("voxels", "10000", 7, 280),
    ]
    rows = [{row.tobytes() for row in probe.bank.rows} for probe in probes]
    assert rows[1] < rows[2] < rows[0] and rows[3] < rows[0] == rows[4]


def test_voxels_without_a_feature_are_misses_and_teach_nothing() -> None:
    train, test = drawn(0), drawn(1)
    for features, every in ((train, 2), (test, 4)):
        for level in features.levels:
            level[::every] = 0.0
    (probe,) = fit_probes([train], ["told", "noise"], 4, QUICK)
    assert probe.voxels == 150
    (scores,) = score_probes([probe], [test], NAMES)
    for reading in READINGS:
        assert scores.readings[reading].without_feature == 75
        assert scores.readings[reading].mean_accuracy < 0.8


def test_the_bank_is_balanced_and_seeds_differ() -> None:
    classes = np.r_[np.zeros(500, int), np.ones(9, int)]
    train = scene(classes, np.random.default_rng(0).normal(size=(509, 6)))
    first, again, other = (fit_probes([train], ["only"], 2, QUICK, seed=seed)[0] for seed in (0, 0, 1))
    assert np.bincount(first.bank.classes).tolist() == [30, 9]
    assert np.array_equal(first.bank.rows, again.bank.rows) and np.array_equal(first.linear.weight, again.linear.weight)
    assert not np.array_equal(first.bank.rows, other.bank.rows)


def test_what_cannot_be_probed_is_refused() -> None:
    empty, one = scene([], np.zeros((0, 2))), scene([1], at(0))
    with pytest.raises(ConfigurationError, match="none of 2 scenes has a labelled voxel"):
        fit_probes([empty, empty], ["only"], 4, QUICK)
    with pytest.raises(ConfigurationError, match="1 voxels of fewer than two classes"):
        fit_probes([one], ["only"], 4, QUICK)
    probes = fit_probes([scene([0, 1], at(0, 90))], ["only"], 4, QUICK)
    with pytest.raises(ConfigurationError, match="no test scene has a labelled voxel"):
        score_probes(probes, [empty], NAMES)
    with pytest.raises(ConfigurationError, match="Give a row of features"):
        scene([1, 2], at(0))
    with pytest.raises(ConfigurationError, match="shares lie between 0 and 1"):
        ProbeSettings(shares=(1.5,))
