"""Corrections of a student and losses of labels, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene_completion_training.masked_scene.labels import (
    CERTAIN,
    LabelHead,
    class_loss,
    joined,
    occupancy_loss,
    refined_probability,
)
from scene_completion_training.masked_scene.objective import SceneView


def test_a_correction_is_added_to_the_log_odds() -> None:
    """Odds 1 : 3 times 3 are 1 : 1, and times 9 they are 3 : 1."""
    probability = np.array([0.25, 0.25, 0.25, 0.5], np.float32)
    correction = np.log(np.array([1.0, 3.0, 9.0, 0.25], np.float32))
    np.testing.assert_allclose(refined_probability(probability, correction), [0.25, 0.5, 0.75, 0.2], rtol=1e-6)
    both = torch.from_numpy(probability), torch.from_numpy(correction)
    np.testing.assert_allclose(refined_probability(*both).numpy(), [0.25, 0.5, 0.75, 0.2], rtol=1e-6)


def test_what_a_student_is_certain_of_can_still_be_corrected() -> None:
    stated = np.array([0.0, 1.0], np.float32)
    np.testing.assert_allclose(refined_probability(stated, np.zeros(2, np.float32)), [CERTAIN, 1 - CERTAIN], rtol=1e-4)
    turned = refined_probability(stated, np.array([10.0, -10.0], np.float32))
    assert turned[0] > 0.9 and turned[1] < 0.1


def test_occupancy_counts_what_is_known() -> None:
    probability, correction = torch.tensor([0.5, 0.25, 0.9]), torch.zeros(3)
    occupied_free_unknown = torch.tensor([4, 0, 255])
    found = occupancy_loss(correction, probability, occupied_free_unknown)
    assert float(found) == pytest.approx((np.log(2.0) - np.log(0.75)) / 2)
    none = occupancy_loss(correction.requires_grad_(), probability, torch.full((3,), 255))
    torch.autograd.backward(none)
    assert none.item() == 0.0 and not correction.grad.any()  # type: ignore[union-attr]


def test_classes_count_occupied_voxels_that_have_one() -> None:
    logits = torch.zeros(3, 15)
    logits[0, 3] = torch.log(torch.tensor(15.0))  # the class that COMMON_CLASSES numbers 4
    assert float(class_loss(logits, torch.tensor([4, 0, 255]))) == pytest.approx(np.log(29 / 15), rel=1e-6)
    assert float(class_loss(logits, torch.tensor([0, 0, 255]))) == 0.0


def test_levels_are_joined_in_the_order_asked_for_with_equal_weight() -> None:
    index = torch.tensor([[0, 3, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]])
    scene = SceneView(index, torch.zeros(3, 1), (4, 4, 2), 2)
    finest = torch.tensor([[1.0, -1.0], [4.0, 2.0], [-3.0, 3.0]])[scene.order]
    coarse = torch.tensor([[100.0, 300.0], [5.0, 1.0]])  # cells (0, 0, 0) and (1, 0, 0)
    found = joined([finest, coarse], scene, index)
    torch.testing.assert_close(found[:, :2], torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), atol=1e-4, rtol=0)
    assert found.shape == (3, 4) and found[1, 2:].tolist() == pytest.approx([-1.0, 1.0], abs=1e-3)


def test_a_new_head_says_nothing() -> None:
    assert not LabelHead(6, "occupancy")(torch.randn(5, 6)).any()
    assert LabelHead(6, "classes")(torch.randn(5, 6)).shape == (5, 15)
