"""Losses of a completed scene: cases computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from scene_completion_training.losses.scene import (
    affinity,
    class_terms,
    depth_likelihood,
    occupied_cross_entropy,
    surface_likelihood,
)


def test_voxels_count_by_their_weight() -> None:
    logits = torch.tensor([[[[0.0, 3.0]]]])
    loss = occupied_cross_entropy(logits, torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[2.0, 0.0]]]]))
    assert loss.item() == pytest.approx(math.log(2.0))


def test_affinity_is_precision_recall_and_specificity() -> None:
    """Of four voxels, two hold the class: said are 0.5 and 1 there, 0.5 and 0 elsewhere; the last one is unknown."""
    probability, true = torch.tensor([0.5, 1.0, 0.5, 0.0, 1.0]), torch.tensor([True, True, False, False, True])
    loss = affinity(probability, true, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]))
    expected = -math.log(1.5 / 2.0) - math.log(1.5 / 2.0) - math.log(1.5 / 2.0)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_affinity_of_what_is_not_there_is_specificity_alone() -> None:
    loss = affinity(torch.tensor([0.5, 0.0]), torch.tensor([False, False]), torch.ones(2))
    assert loss.item() == pytest.approx(-math.log(1.5 / 2.0), abs=1e-4)


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
