"""Variants of images, and features that are computed when they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.data.feature_targets import FeatureTargets
from scene_completion_training.foundation.targets import LiveTargets, as_half, random_shift, shifted, variant_of
from tests.training.foundation.tiny_models import PatchMeans

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_variants_follow_from_seed_key_and_number() -> None:
    plain = variant_of(3, "a/000000/left", 0, 16)
    assert plain.shift == (0, 0) and not plain.mirrored
    others = [variant_of(3, "a/000000/left", number, 16) for number in range(1, 9)]
    assert [variant.mirrored for variant in others] == [True, False] * 4
    assert len({variant.shift for variant in others}) > 4
    assert all(-8 <= pixels < 8 for variant in others for pixels in variant.shift)
    assert others == [variant_of(3, "a/000000/left", number, 16) for number in range(1, 9)]
    for seed, key in ((4, "a/000000/left"), (3, "a/000000/right")):
        assert [variant_of(seed, key, number, 16) for number in range(1, 9)] != others


def test_an_image_is_mirrored_then_shifted() -> None:
    targets: FeatureTargets = LiveTargets(PatchMeans(), cell=16, variants=4, seed=1)
    assert (targets.dim, targets.cell, targets.variants) == (3, 16, 4)
    for number in range(4):
        found = targets.get("key", IMAGE, number)
        expected = variant_of(1, "key", number, 16)
        assert (found.shift, found.mirrored) == (expected.shift, expected.mirrored)
        seen = np.ascontiguousarray(IMAGE[:, ::-1] if found.mirrored else IMAGE)
        means = PatchMeans().features(shifted(torch.from_numpy(seen).permute(2, 0, 1)[None], found.shift), 16)
        assert found.features.dtype == torch.float16
        torch.testing.assert_close(found.features, means[0].half())


@pytest.mark.parametrize("number", [-1, 4])
def test_a_variant_that_there_is_not_is_refused(number: int) -> None:
    with pytest.raises(ConfigurationError, match=f"no variant {number}, there are 0 to 3"):
        LiveTargets(PatchMeans(), cell=16, variants=4).get("key", IMAGE, number)


@pytest.mark.parametrize("value", [1e5, -1e5, float("inf"), float("nan")])
def test_what_half_precision_cannot_hold_is_refused(value: float) -> None:
    features = torch.ones(2, 3)
    features[1, 1] = value
    with pytest.raises(ConfigurationError, match=r"some/key: features up to .* float16"):
        as_half(features, "some/key")
    assert as_half(torch.tensor([65504.0]), "key").item() == 65504.0


def test_beyond_the_edge_the_edge_is_repeated() -> None:
    image = torch.arange(12.0).reshape(1, 3, 4)
    assert shifted(image, (1, -2))[0].tolist() == [[4.0, 4.0, 4.0, 5.0], [8.0, 8.0, 8.0, 9.0], [8.0, 8.0, 8.0, 9.0]]


@pytest.mark.parametrize(
    ("cell", "values"), [(1, [0]), (7, list(range(-3, 4))), (8, list(range(-4, 4))), (16, list(range(-8, 8, 2)))]
)
def test_shifts_are_even_around_zero_in_eighths_of_a_cell(cell: int, values: list[int]) -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([random_shift(generator, cell) for _ in range(3000)])
    for axis in (0, 1):
        found, counts = np.unique(drawn[:, axis], return_counts=True)
        assert found.tolist() == values
        assert counts.min() > 0.7 * 3000 / len(values)
