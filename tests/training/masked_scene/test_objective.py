"""Nothing hidden tells the student anything; the teacher follows it; distances and spreads are those worked by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_training.masked_scene.data import masked_voxels
from scene_completion_training.masked_scene.objective import (
    SceneView,
    distance,
    momentum,
    spread,
    student_features,
    update_teacher,
)
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from tests.training.masked_scene.test_views import random_places

SHAPE, LEVELS, INPUTS = (32, 32, 16), 3, 5


@pytest.fixture
def network() -> VoxelHUNet:
    torch.manual_seed(0)
    return VoxelHUNet(HUNetSettings(INPUTS, (8, 12, 16), (8, 12, 16)))


def batch(count: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """Two scenes: places [2 N, 4] in random order, features [2 N, 5], and what is hidden [2 N]."""
    places, hidden = [], []
    for scene in range(2):
        index = random_places(count, SHAPE, seed=scene)
        hidden.append(torch.from_numpy(masked_voxels(index, 4, 0.4, np.random.default_rng(scene))))
        places.append(torch.nn.functional.pad(torch.from_numpy(index.astype(np.int64)), (1, 0), value=scene))
    features = torch.rand(2 * count, INPUTS, generator=torch.Generator().manual_seed(0))
    return torch.cat(places), features, torch.cat(hidden)


def answers(network: VoxelHUNet, index: Tensor, features: Tensor, masked: Tensor) -> list[Tensor]:
    with torch.no_grad():
        view = SceneView(index, features, LEVELS)
        return student_features(network, view, masked)


def test_hidden_features_tell_the_student_nothing(network: VoxelHUNet) -> None:
    index, features, masked = batch()
    before = answers(network, index, features, masked)
    changed = features.clone()
    changed[masked] = torch.rand(int(masked.sum()), INPUTS) * 9.0
    for one, other in zip(before, answers(network, index, changed, masked), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    changed = features.clone()
    changed[~masked] += 1.0
    for one, other in zip(before, answers(network, index, changed, masked), strict=True):
        assert not torch.allclose(one, other)


def test_distances_worked_by_hand() -> None:
    """What the teacher says of every voxel is no part of the target.

    Targets (1, 1, -1, -1) and (1, -1, 1, -1) have the mean (1, 0, 0, -1), and (0, ±1, ∓1, 0) are left.
    """
    teacher = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    alike = torch.tensor([[1.0, 0.0, 0.0, -1.0]] * 2)
    assert distance(alike, teacher).item() == pytest.approx(1.0, abs=1e-4)
    told_apart = torch.tensor([[0.0, 1.0, -1.0, 0.0], [0.0, -1.0, 1.0, 0.0]])
    assert distance(told_apart, teacher).item() == pytest.approx(0.0, abs=1e-4)
    assert distance(3.0 * told_apart + 7.0, teacher).item() == pytest.approx(0.0, abs=1e-4)  # both are standardised
    assert distance(-told_apart, teacher).item() == pytest.approx(2.0, abs=1e-4)
    assert distance(alike[:1], teacher[:1]).item() == pytest.approx(1.0, abs=1e-4)  # one voxel
    distance(torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4)).backward()  # type: ignore[no-untyped-call]


def test_spreads_worked_by_hand() -> None:
    """Half the directions are (-1, 1) / √2, half the opposite: each dimension deviates by 1 / √2, times √2."""
    assert spread(torch.tensor([[0.0, 2.0], [3.0, 1.0]] * 5)) == pytest.approx(1.0, abs=1e-4)
    assert spread(torch.tensor([[0.0, 2.0], [1.0, 3.0]] * 5)) == pytest.approx(0.0, abs=1e-4)
    assert spread(torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))) == pytest.approx(1.0, abs=0.02)
    assert math.isnan(spread(torch.zeros(1, 4)))


def test_the_teacher_follows_the_student(network: VoxelHUNet) -> None:
    torch.manual_seed(1)
    teacher = VoxelHUNet(network.settings).requires_grad_(False)
    before = [value.clone() for value in teacher.parameters()]
    update_teacher(teacher, network, 1.0)
    for value, old in zip(teacher.parameters(), before, strict=True):
        assert torch.equal(value, old)
    update_teacher(teacher, network, 0.75)
    for value, old, new in zip(teacher.parameters(), before, network.parameters(), strict=True):
        torch.testing.assert_close(value, 0.75 * old + 0.25 * new)
    update_teacher(teacher, network, 0.0)
    for value, new in zip(teacher.parameters(), network.parameters(), strict=True):
        assert torch.equal(value, new) and value.grad is None and not value.requires_grad


def test_the_teacher_keeps_more_and_more_of_itself() -> None:
    assert momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert momentum(100, 100, 0.996) == 1.0 == momentum(120, 100, 0.996)
