"""Unsupervised semantics: neighbourhoods in 3D, the buffer, the losses, and what is estimated of the data."""

from __future__ import annotations

import pytest
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_training.losses.feature_correspondence import ATTRACTED, correspondence_loss, estimate_forces
from scene_completion_training.networks.semantic_head import CropBuffer, DistillationHead
from scene_completion_training.rendering.sampling import points_in_balls, surface_centres

CAMERA = Camera(fx=40.0, fy=40.0, cx=39.5, cy=11.5, width=80, height=24)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_points_fill_a_ball_evenly() -> None:
    """Within half of the radius lies an eighth of the points, and their mean is the centre."""
    centres = torch.tensor([[1.0, 2.0, 30.0], [0.0, 0.0, 5.0]])
    points = points_in_balls(centres, 0.5, 20_000, _generator())
    distance = (points - centres[:, None]).norm(dim=-1)
    assert distance.max() <= 0.5 + 1e-5
    assert (distance < 0.25).float().mean().item() == pytest.approx(0.125, abs=0.01)
    assert torch.allclose(points.mean(dim=1), centres, atol=0.02)


def test_centres_come_from_every_depth_and_keep_apart() -> None:
    depth = torch.linspace(4.0, 60.0, 80).expand(24, 80).clone()
    depth[0] = 200.0  # sky
    for seed in range(5):
        centres = surface_centres(depth, CAMERA, 5, 3.0, _generator(seed))
        assert centres.shape == (5, 3)
        assert centres[:, 2].max() < 100.0
        bins = torch.bucketize(centres[:, 2], torch.linspace(4.0, 60.0, 6)[1:-1])
        assert (bins - torch.arange(5)).abs().max() <= 1  # one of each fifth of the pixels
        assert torch.pdist(centres).min() >= 3.0
    # They lie on the surface: projected, each has the depth of its pixel.
    u = centres[:, 0] / centres[:, 2] * CAMERA.fx + CAMERA.cx
    v = centres[:, 1] / centres[:, 2] * CAMERA.fy + CAMERA.cy
    assert torch.allclose(depth[v.round().long(), u.round().long()], centres[:, 2], atol=1e-3)


def test_without_surfaces_there_are_no_centres() -> None:
    assert surface_centres(torch.full((24, 80), 150.0), CAMERA, 5, 3.0, _generator()).shape == (0, 3)


def test_one_place_repeated_is_as_far_apart_as_it_gets() -> None:
    """A wall at one depth in one column: no room for 100 m, so the farthest candidate is taken."""
    depth = torch.full((24, 80), 150.0)
    depth[:, 40] = 10.0
    assert surface_centres(depth, CAMERA, 3, 100.0, _generator()).shape == (3, 3)


def test_correspondence_by_hand() -> None:
    """One pair of points: −max(S^h, 0) (S^f − b)."""
    first, second = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.6, 0.8]]])
    assert correspondence_loss(first, second, first, second, 0.2).item() == pytest.approx(-0.6 * (0.6 - 0.2))
    assert correspondence_loss(first, second, first, second, 0.9).item() == pytest.approx(0.6 * 0.3)
    assert correspondence_loss(first, second, first, -second, 0.2).item() == 0.0


def test_estimated_shifts_attract_the_share_they_should() -> None:
    similarities = {
        "self": 0.5 + 0.2 * torch.randn(5000, generator=_generator(1)),
        "similar": 0.4 + 0.1 * torch.randn(5000, generator=_generator(2)),
        "random": 0.1 * torch.randn(5000, generator=_generator(3)),
    }
    forces = estimate_forces(similarities)
    for pair, force in forces.items():
        assert (similarities[pair] > force.shift).float().mean().item() == pytest.approx(ATTRACTED[pair], abs=0.01)
    assert sum(force.weight for force in forces.values()) == pytest.approx(1.0)
    pull = [force.weight * (similarities[pair] - force.shift).abs().mean().item() for pair, force in forces.items()]
    assert pull == pytest.approx([pull[0]] * 3, rel=1e-4)


def test_the_head_gives_length_one_and_forgets_the_length_of_its_input() -> None:
    head = DistillationHead(12, 6).eval()
    features = torch.randn(3, 5, 12)
    assert torch.allclose(head(features).norm(dim=-1), torch.ones(3, 5), atol=1e-5)
    assert torch.allclose(head(features), head(7.0 * features), atol=1e-5)


def test_the_buffer_forgets_the_oldest_and_finds_the_nearest() -> None:
    buffer = CropBuffer(4, 2, 3, neighbours=1)
    axes = torch.eye(3)
    assert buffer.partners(axes[:1, None].expand(1, 2, 3), _generator()) is None
    for axis in axes:
        buffer.push(axis.expand(1, 2, 3))
    assert int(buffer.filled) == 3
    looked_up = (axes[1] + 0.1 * axes[2]).expand(1, 2, 3)
    partners = buffer.partners(looked_up, _generator())
    assert partners is not None
    assert torch.equal(partners.similar[0, 0], axes[1])
    # An empty row is never a random partner.
    assert all(buffer.partners(looked_up, _generator(seed)).random.norm(dim=-1).min() > 0.9 for seed in range(20))  # type: ignore[union-attr]
    buffer.push(-axes[:2, None].expand(2, 2, 3))  # one slot was free: the first axis leaves
    partners = buffer.partners(axes[0].expand(1, 2, 3), _generator())
    assert partners is not None and not torch.equal(partners.similar[0, 0], axes[0])
