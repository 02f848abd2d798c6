"""Heads of several teachers on one feature."""

from __future__ import annotations

import torch
from scene_completion_training.networks.feature_heads import FeatureHeads

DIMS = {"text": 24, "dino-s": 40}


def rank(features: torch.Tensor) -> int:
    return int(torch.linalg.matrix_rank(features.double(), rtol=1e-6))


def test_linear_heads_together_say_no_more_than_the_feature() -> None:
    """All that CUA-O3D concatenates for its probes has the rank of its trunk; MLPs may say more."""
    torch.manual_seed(0)
    features = torch.randn(200, 8)
    linear, mlp = FeatureHeads(8, DIMS), FeatureHeads(8, DIMS, "mlp")
    assert rank(torch.cat([linear.of(name, features) for name in DIMS], dim=-1)) == 8
    assert rank(torch.cat([mlp.of(name, features) for name in DIMS], dim=-1)) > 8


def test_heads_are_made_again_from_their_weights() -> None:
    for heads in (FeatureHeads(8, DIMS), FeatureHeads(8, DIMS, "mlp", hidden=32)):
        again = FeatureHeads.like(heads.state_dict())
        again.load_state_dict(heads.state_dict())
        assert again.dims == heads.dims == DIMS and again.kind == heads.kind
        features = torch.randn(5, 8)
        assert torch.equal(again(features), heads(features))


def test_side_by_side_each_teacher_has_length_one() -> None:
    out = FeatureHeads(8, DIMS)(torch.randn(5, 8))
    assert out.shape == (5, 64)
    for part in out.split(list(DIMS.values()), dim=-1):
        assert torch.allclose(part.norm(dim=-1), torch.ones(5), atol=1e-5)
