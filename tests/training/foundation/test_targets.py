"""Variants of images, and features that are computed when they are asked for."""

import copy
from pathlib import Path

import torch

from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.targets import LiveTokens, shifted, variant_of
from tests.training.foundation.tiny_models import saved_model


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


def test_tokens_of_a_batch_are_those_of_its_shifted_views(tmp_path: Path) -> None:
    """Of the views that are wanted alone; offsets say where the grid of each begins, in multiples of a pixel."""
    backbone = Backbone(saved_model("dinov2", tmp_path / "m"), 2)
    live = copy.deepcopy(LiveTokens(backbone, cell=8))
    images = torch.rand(2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    found = live.of(images, torch.tensor([[2, 0], [1, 1]]), torch.Generator().manual_seed(1))
    assert found["features"].shape == (2, 3, live.dim, 4, 6) and found["feature_offsets"].shape == (2, 3, 2)
    for row, view in ((0, 2), (0, 0), (1, 1)):
        dx, dy = found["feature_offsets"][row, view].tolist()
        assert min(dx, dy) >= -4 and max(dx, dy) < 4
        expected = backbone.features(255.0 * shifted(images[row, view], (dy, dx))[None], 8)[0]
        torch.testing.assert_close(found["features"][row, view], expected, atol=1e-5, rtol=1e-4)
    assert not found["features"][0, 1].any() and not found["features"][1, 0].any()
    assert len({tuple(o) for o in found["feature_offsets"].flatten(0, 1).tolist()}) > 2


def test_beyond_the_edge_the_edge_is_repeated() -> None:
    image = torch.arange(12.0).reshape(1, 3, 4)
    assert shifted(image, (1, -2))[0].tolist() == [[4.0, 4.0, 4.0, 5.0], [8.0, 8.0, 8.0, 9.0], [8.0, 8.0, 8.0, 9.0]]
