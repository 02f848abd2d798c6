"""The feature field, its rays, its downsampler and its losses, on cases worked out by hand."""

import math

import pytest
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_training.losses import cosine_loss, feature_smoothness
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import KINDS, FeatureField, SalienceDownsampler, TargetRarity
from scene_completion_training.rendering import (
    composite_features,
    heaviest_samples,
    rays_of_pixels,
    render_rays,
)

CAMERA = Camera(fx=37.0, fy=37.0, cx=31.5, cy=15.5, width=64, height=32)


@pytest.fixture
def field() -> FeatureField:
    torch.manual_seed(0)
    return FeatureField(DensityField(CAMERA, hidden=32), target_size=12, channels=5, units=16, expansion=7)


def test_features_are_composited_like_distances(field: FeatureField) -> None:
    """A feature that is the distance of its sample composites to the expected distance."""
    seen = field.observe(255.0 * torch.rand(1, 3, 32, 64))
    pixel = torch.stack([torch.arange(64) % 8, torch.arange(64) // 8], dim=-1)[None]
    rays = rays_of_pixels(CAMERA, torch.eye(4)[None, None], torch.zeros(1, 64, dtype=torch.long), pixel, 8)
    rendered = render_rays(seen, rays, samples=6, near=3.0, far=80.0)
    distance = composite_features(rendered.distances.flatten(1)[..., None], rendered.weights)[..., 0] * rays.cosine
    assert torch.allclose(distance, rendered.depth, rtol=1e-5)
    points, weights = heaviest_samples(rendered, 2)
    assert torch.equal(weights, rendered.weights.sort(dim=-1, descending=True).values[..., :2])
    found = points.reshape(1, 64, 2, 3) - rays.origin[:, :, None]
    best = rendered.distances.gather(-1, rendered.weights.argmax(dim=-1, keepdim=True))[..., 0]
    assert torch.allclose(found[:, :, 0].norm(dim=-1), best, rtol=1e-5)
    points, weights = heaviest_samples(rendered, 99)  # a ray has six
    again = composite_features((points - rays.origin[:, :1]).norm(dim=-1, keepdim=True), weights)[..., 0]
    assert torch.allclose(again * rays.cosine, rendered.depth, rtol=1e-5)


def test_salience_weighs_valid_rays_alone() -> None:
    """Two rays of salience 0 and ln 3 have weights 1/4 and 3/4; a third, invalid, has none."""
    downsampler = SalienceDownsampler(2, 3)
    with torch.no_grad():
        downsampler.salience.weight.copy_(torch.tensor([[0.0, 1.0]]))
        downsampler.salience.bias.zero_()
        downsampler.scale.fill_(1.0)
        downsampler.offset.zero_()
    features = torch.tensor([[[4.0, 0.0], [8.0, math.log(3.0)], [1e4, 1e4]]])
    out = downsampler(features, torch.tensor([[True, True, False]]))
    length = math.hypot(7.0, 0.75 * math.log(3.0))
    assert out[0].tolist() == pytest.approx([7.0 / length, 0.75 * math.log(3.0) / length])
    assert downsampler(features, torch.zeros(1, 3, dtype=torch.bool))[0].tolist() == [0.0, 0.0]


def test_cosine_loss_by_hand() -> None:
    predicted = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    valid = torch.tensor([True, True, False])
    assert cosine_loss(predicted, target, valid).item() == pytest.approx((1.0 - math.sqrt(0.5)) / 2.0)
    nothing = cosine_loss(predicted, target, torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0.0 and predicted.grad is not None and not predicted.grad.any()


def test_feature_smoothness_by_hand() -> None:
    """From (3, 0) to (0, 5) between columns: (√2, 0) to (0, √2) at a root mean square of one, √2 in the mean."""
    features = torch.zeros(1, 2, 2, 2)
    features[:, :, 0, 0] = 3.0
    features[:, :, 1, 1] = 5.0
    image = torch.full((1, 3, 2, 2), 0.5)
    assert feature_smoothness(features, image).item() == pytest.approx(2 * math.sqrt(2.0) / 4)
    image[..., 1] += 0.04  # across an edge of 0.04, e^{−25·0.04} of it
    assert feature_smoothness(features, image).item() == pytest.approx(2 * math.sqrt(2.0) * math.exp(-1.0) / 4)
    assert feature_smoothness(7.0 * features, image).item() == pytest.approx(feature_smoothness(features, image).item())
    assert feature_smoothness(torch.ones(3, 8, 8, 5), torch.rand(3, 3, 8, 8)).item() == 0.0


def kinds(rare: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As many kinds as clusters, the first `rare` of which come ten times, the others a hundred times."""
    counts = torch.tensor([10] * rare + [100] * (KINDS - rare))
    number = torch.arange(KINDS).repeat_interleave(counts)
    return torch.eye(KINDS)[number] + 0.01 * torch.randn(len(number), KINDS), number < rare


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_weights_go_as_a_power_of_the_share(power: float) -> None:
    torch.manual_seed(0)
    targets, rare = kinds(8)
    rarity = TargetRarity(KINDS, power)
    rarity.fit(targets, seed=0)
    weights = rarity(5.0 * targets)  # of any length
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-3)
    assert (weights[rare].mean() / weights[~rare].mean()).item() == pytest.approx(10.0**power, rel=0.05)
