from __future__ import annotations

import math

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.evaluation.nearest_neighbour import NEIGHBOURS, TEMPERATURE, FeatureBank


def at(*degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_the_nearest_one_decides_or_the_nearest_vote() -> None:
    """By hand: at 0° class 0 lies 4° away, three of class 1 lie 10° away.

    exp((cos 10° - cos 4°) / 0.07) = 0.83, so that three at 10° outvote one at 4°, and one does not.
    """
    share = math.exp((math.cos(math.radians(10)) - math.cos(math.radians(4))) / TEMPERATURE)
    assert 1.0 / 3.0 < share < 1.0
    three = FeatureBank(at(4, 10, -10, 10), np.array([0, 1, 1, 1]), 2)
    one = FeatureBank(at(4, 10), np.array([0, 1]), 2)
    assert [found.tolist() for found in three.labels(7.0 * at(0))] == [[0], [1]]
    assert [found.tolist() for found in one.labels(7.0 * at(0))] == [[0], [0]]


def test_only_the_nearest_vote() -> None:
    """More than k of class 1 at a right angle have no vote, because k of class 0 are nearer."""
    bank = FeatureBank(at(*[30] * NEIGHBOURS, *[90] * 400), np.array([0] * NEIGHBOURS + [1] * 400), 2)
    assert bank.labels(at(0))[1].tolist() == [0]
    fewer = FeatureBank(bank.rows[1:], bank.classes[1:], 2)
    assert fewer.labels(at(85))[1].tolist() == [1]


def test_it_is_its_readable_twin() -> None:
    random = np.random.default_rng(0)
    bank = FeatureBank.balanced(random.normal(size=(300, 5)).astype(np.float32), random.integers(0, 4, 300), 4, most=60)
    values = random.normal(size=(5000, 5)).astype(np.float32)
    values[17] = 0.0
    for found, reference in zip(bank.labels(values), bank.labels_reference(values), strict=True):
        assert np.array_equal(found, reference) and found[17] == 4


def test_a_bank_is_balanced_and_leaves_out_what_has_no_feature() -> None:
    classes = np.array([0] * 900 + [1] * 50 + [3] * 2)
    values = np.ones((len(classes), 3), np.float32) * np.arange(1, len(classes) + 1, dtype=np.float32)[:, None]
    values[900:920] = 0.0
    bank = FeatureBank.balanced(values, classes, 4, most=40, seed=1)
    assert np.bincount(bank.classes, minlength=4).tolist() == [40, 30, 0, 2]
    assert np.linalg.norm(bank.rows, axis=1) == pytest.approx(1.0)
    with pytest.raises(ConfigurationError, match="no feature is labelled"):
        FeatureBank.balanced(values[900:910], classes[900:910], 4, most=5)
