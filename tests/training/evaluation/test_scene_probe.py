"""Linear probes: what they find."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.evaluation.probes import fit_linear_probe


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
