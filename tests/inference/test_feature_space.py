from dataclasses import replace

import numpy as np
import pytest

from scene_completion_ros.inference.text_bank import FeatureSpace

UNITS = 64


def space(dimension: int = 384, units: int = UNITS, rank: int | None = None, seed: int = 0) -> FeatureSpace:
    """A space whose matrix has a rank, and a bias as large as its features."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(dimension, units))
    if rank is not None:
        weight = rng.normal(size=(dimension, rank)) @ rng.normal(size=(rank, units))
    return FeatureSpace("clip", weight.astype(np.float32), rng.normal(size=dimension).astype(np.float32))


@pytest.mark.parametrize(
    "of",
    [space(), space(512, rank=3), space(16), space(1), space(8, units=4), replace(space(), weight=space().weight * 0)],
)
def test_the_folded_cosine_is_the_explicit_one(of: FeatureSpace) -> None:
    rng = np.random.default_rng(2)
    hidden = np.maximum(rng.normal(size=(500, of.weight.shape[1])), 0.0)
    rows = np.random.default_rng(1).normal(size=(20, of.dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    features = of.features(hidden)
    explicit = features @ rows.T / np.linalg.norm(features, axis=1, keepdims=True)
    weight, bias, root = of.folded(rows)
    norm = np.linalg.norm(np.column_stack([hidden, np.ones(len(hidden))]) @ root.T, axis=1, keepdims=True)
    assert np.abs((hidden @ weight.T + bias) / norm - explicit).max() < 1e-10
    assert np.array_equal(root, np.triu(root))
