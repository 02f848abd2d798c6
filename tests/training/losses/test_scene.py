"""Losses of a completed scene: cases computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from scene_completion_training.losses.scene import (
    class_terms,
    depth_likelihood,
    occupied_cross_entropy,
    surface_likelihood,
)


def test_voxels_count_by_their_weight() -> None:
    logits = torch.tensor([[[[0.0, 3.0]]]])
    loss = occupied_cross_entropy(logits, torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[2.0, 0.0]]]]))
    assert loss.item() == pytest.approx(math.log(2.0))


def test_a_surface_is_as_likely_as_its_distance_and_its_doubt_say() -> None:
    """0.2 m off with a doubt of 0.1 m, and a cell that nobody measured."""
    height, deviation = torch.tensor([[[1.2, 7.0]]]), torch.tensor([[[0.1, 0.5]]])
    loss = surface_likelihood(height, deviation, torch.tensor([[[1.0, math.nan]]]), torch.ones(1, 1, 2))
    assert loss.item() == pytest.approx(2.0 + math.log(0.1), abs=1e-5)


def test_depth_is_compared_where_it_is_known() -> None:
    """A pixel twice as far, one without depth, and the sky."""
    true = torch.tensor([[[10.0, 0.0, math.inf]]])
    loss = depth_likelihood(torch.full((1, 1, 3), math.log(20.0)), torch.full((1, 1, 3), 0.5), true)
    assert loss.item() == pytest.approx(math.log(2.0) / 0.5 + math.log(0.5), abs=1e-5)


def test_classes_weigh_as_they_are_given() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    loss = class_terms(logits, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((math.log(2.0) + 3.0 * math.log(4.0)) / 4.0, abs=1e-6)
