"""The encoder and the fields of density, of features and of many views, on cases worked out by hand."""

import math

import numpy as np
import pytest
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.export import FoldedEncoder, head_weights
from scene_completion_training.networks.density_field import (
    DEPTH_UNITS,
    DensityField,
    FusionHead,
    MultiViewField,
    OccupancyLink,
    SingleViewObservation,
    link_calibration,
    link_of_calibration,
    sample_map,
)
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import KINDS, FeatureField, SalienceDownsampler, TargetRarity
from scene_completion_training.rendering import composite_features, heaviest_samples, rays_of_pixels, render_rays
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.inference.twins import density_reference


def test_imagenet_weights_are_loaded_and_frozen_as_far_as_asked() -> None:
    network = EncoderDecoder(pretrained=True)
    fresh = EncoderDecoder(pretrained=False)
    assert not torch.equal(network.trunk.blocks[5]._project_conv.weight, fresh.trunk.blocks[5]._project_conv.weight)
    assert not any(p.requires_grad for p in network.trunk.parameters())
    assert all(p.requires_grad for p in network.decoder.parameters())
    partly = EncoderDecoder(pretrained=True, frozen_blocks=5)
    assert not any(p.requires_grad for p in partly.trunk.blocks[4].parameters())
    assert all(p.requires_grad for p in partly.trunk.blocks[5].parameters())


def test_the_full_size_trunk_is_frozen_as_far_as_asked() -> None:
    network = EncoderDecoder((64, 96), trunk="resnet50", pretrained=False)
    network.trunk.freeze(1)
    for name, module in network.trunk.named_modules():  # as published
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.training != name.startswith(("stem", "stages.0."))
    assert not any(m.training for m in network.eval().modules())
    learning = {name.split(".")[1] for name, p in network.trunk.named_parameters() if p.requires_grad}
    assert not any(p.requires_grad for p in network.trunk.stem.parameters()) and learning >= {"1", "2", "3"}
    assert "0" not in learning


# The field agrees with the robot's readable query.


@pytest.mark.parametrize("size", [(640, 192), (320, 96)], ids=["whole", "half"])
def test_field_agrees_with_the_deployed_query(size: tuple[int, int]) -> None:
    """Same density from torch and from the robot's NumPy reference, inside the view, outside it and behind it."""
    torch.manual_seed(3)
    density_field = DensityField(STREET_CAMERA).eval()
    camera = density_field.camera.resized(*size)
    generator = np.random.default_rng(0)
    points = generator.uniform([-30, -5, -3], [30, 3, 60], (4000, 3)).astype(np.float32)
    image = torch.from_numpy(generator.uniform(0, 255, (1, 3, *size[::-1])).astype(np.float32))
    with torch.no_grad():
        expected = density_field.observe(image).density(torch.from_numpy(points)[None])[0].numpy()
        features = FoldedEncoder(density_field, camera).eval()(image)[0].numpy()
    found = density_reference(features, points, head_weights(density_field), density_field.spec, camera)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_head_of_realestate10k_is_that_of_pixelnerf() -> None:
    """A residual block, and the distance of a point in place of its depth."""
    torch.manual_seed(1)
    camera = Camera(fx=37.7, fy=65.0, cx=47.5, cy=31.5, width=96, height=64)
    spec = PointCodeSpec(near=1.0, far=100.0, minimum_depth=1.0 / 3.0)
    field = DensityField(camera, spec, depth_channel=False, hidden=32, blocks=1, by_distance=True).eval()
    torch.nn.init.normal_(field.blocks[0][3].weight)
    points = torch.tensor([[0.3, -0.2, 4.0], [3.0, 1.2, 20.0], [0.1, 0.4, 60.0], [3.6, 0.1, 3.05]])
    place = spec.coordinates(points, camera)
    place[:, 2] = 2.0 * (1.0 / points.norm(dim=-1) - 0.01) / 0.99 - 1.0
    with torch.no_grad():
        seen = field.observe(255.0 * torch.rand(1, 3, 64, 96))
        weights = field.feature_layer.weight[:, :, 0, 0]
        hidden = sample_map(seen.raw, place[None])[0].T @ weights.T + field.position_layer(spec.encode(place))
        _, first, _, second = field.blocks[0]
        hidden = hidden + second(first(hidden.relu()).relu())
        expected = field.density_layer(hidden.relu())[:, 0]
        torch.testing.assert_close(seen.density_logit(points[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_depth_units_place_a_surface_at_the_depth_of_channel_zero() -> None:
    """A hat of three ramps (rise, twice fall, rise) is a bump at the pixel's depth, wherever that is."""
    local = DensityField(STREET_CAMERA).eval()
    raw = torch.zeros(1, 64, 96, 320)
    depth = 11.0
    raw[:, 0] = local.spec.depth_code(torch.tensor(depth))
    with torch.no_grad():
        local.density_layer.weight.zero_()
        for unit, (slope, offset) in enumerate(DEPTH_UNITS):
            if slope == 100.0 and offset in (-0.04, 0.0, 0.04):
                local.density_layer.weight[0, unit] = 1.0 if offset else -2.0
        z = torch.linspace(4, 40, 2000)
        points = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z], dim=-1)[None]
        density = SingleViewObservation(local, local.feature_layer(raw), raw).density(points)[0]
    assert z[density.argmax()].item() == pytest.approx(depth, abs=0.1)
    assert density[z < 8].max() < 0.2 and density[z > 20].max() < 0.2


def test_the_link_of_a_bundle_is_that_of_its_training() -> None:
    """Exported, a link becomes a calibration; from that it comes back."""
    link = OccupancyLink(2.0)
    with torch.no_grad():
        link.log_scale.fill_(0.4)
    found = link_of_calibration(link_calibration(link.state_dict(), 0.2), 0.2)
    assert found["log_scale"].item() == pytest.approx(0.4, abs=0.02)
    assert found["offset"].item() == pytest.approx(2.0, abs=0.05)
    assert link_of_calibration(link_calibration({}, 0.2), 0.2) == {}


# The feature field, its rays and its downsampler, on cases worked out by hand.


def test_features_are_composited_like_distances() -> None:
    """A feature that is the distance of its sample composites to the expected distance."""
    torch.manual_seed(0)
    camera = Camera(fx=37.0, fy=37.0, cx=31.5, cy=15.5, width=64, height=32)
    field = FeatureField(DensityField(camera, hidden=32), target_size=12, channels=5, units=16, expansion=7)
    seen = field.observe(255.0 * torch.rand(1, 3, 32, 64))
    pixel = torch.stack([torch.arange(64) % 8, torch.arange(64) // 8], dim=-1)[None]
    rays = rays_of_pixels(camera, torch.eye(4)[None, None], torch.zeros(1, 64, dtype=torch.long), pixel, 8)
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


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_weights_go_as_a_power_of_the_share(power: float) -> None:
    """As many kinds as clusters, the first eight of which come ten times, the others a hundred times."""
    torch.manual_seed(0)
    number = torch.arange(KINDS).repeat_interleave(torch.tensor([10] * 8 + [100] * (KINDS - 8)))
    targets, rare = torch.eye(KINDS)[number] + 0.01 * torch.randn(len(number), KINDS), number < 8
    rarity = TargetRarity(KINDS, power)
    rarity.fit(targets, seed=0)
    weights = rarity(5.0 * targets)  # of any length
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-3)
    assert (weights[rare].mean() / weights[~rare].mean()).item() == pytest.approx(10.0**power, rel=0.05)


# Fusion of views: order does not matter, unseen views do not count, and gradients are what they should be.


@pytest.fixture
def head() -> FusionHead:
    torch.manual_seed(0)
    head = FusionHead(8, 5, hidden=16, fused=4).double()
    torch.nn.init.normal_(head.view_layer.weight)  # depth units included
    return head


def _inputs(views: int, points: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(views)
    features = torch.randn(2, views, points, 16, generator=generator, dtype=torch.float64)
    code = torch.randn(2, views, points, 5, generator=generator, dtype=torch.float64)
    return features, code, torch.rand(2, views, points, generator=generator) > 0.4


def test_the_order_of_the_views_does_not_matter(head: FusionHead) -> None:
    features, code, seen = _inputs(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(head(features[:, order], code[:, order], seen[:, order]), head(features, code, seen))


def test_a_view_that_does_not_see_a_point_does_not_count(head: FusionHead) -> None:
    features, code, seen = _inputs(3)
    seen[:, 0], seen[:, 1] = True, False
    changed = features.clone()
    changed[:, 1] += 100.0
    torch.testing.assert_close(head(changed, code, seen), head(features, code, seen))
    changed[:, 0] += 1.0
    assert not torch.allclose(head(changed, code, seen), head(features, code, seen))


def test_densities_of_views_are_averaged_by_their_confidence() -> None:
    """With a dropout of 1 the first view alone counts."""
    features, code, _ = _inputs(2)
    head = FusionHead(8, 5, hidden=16, depth_channel=False, densities=True, dropout=1.0).double()
    seen = torch.ones(2, 2, 6, dtype=torch.bool)
    views = head.view_layer(torch.relu(features + head.position_layer(code)))
    share = torch.sigmoid(views[:, 0, :, 0] - views[:, 1, :, 0])
    expected = share * views[:, 0, :, 1] + (1.0 - share) * views[:, 1, :, 1]
    torch.testing.assert_close(head(features, code, seen), expected)
    torch.testing.assert_close(head(features, code, seen, torch.Generator()), views[:, 0, :, 1])


def test_the_fusion_is_as_large_as_the_published_one() -> None:
    head = FusionHead(64, 39, hidden=128, fused=16, depth_channel=False)
    assert sum(parameter.numel() for parameter in head.parameters()) == 15_794


def test_features_are_taken_where_a_point_projects_in_each_view() -> None:
    """A field whose views all stand in the same place sees a point at the same pixel: like one view."""
    torch.manual_seed(2)
    camera = Camera(fx=55.0, fy=55.0, cx=47.5, cy=31.5, width=96, height=64)
    field = MultiViewField(camera, encoder=EncoderDecoder((64, 96), pretrained=False)).eval()
    torch.nn.init.normal_(field.fusion.view_layer.weight)
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    poses[0, 1, 2, 3] = 4.0  # 4 m ahead
    poses[0, 2, 0, 3] = 0.5  # half a metre to the right
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 3, 64, 96, generator=generator) * 255
    points = torch.rand(1, 200, 3, generator=generator) * torch.tensor([6.0, 2.0, 20.0]) + torch.tensor([-3, -1, 4.0])
    with torch.no_grad():
        one = field.observe(image, torch.eye(4)[None, None]).density_logit(points)
        same = field.observe(image.repeat(1, 3, 1, 1, 1), torch.eye(4).repeat(1, 3, 1, 1)).density_logit(points)
        moved = field.observe(image.repeat(1, 3, 1, 1, 1), poses).density_logit(points)
    torch.testing.assert_close(same, one, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(moved, one, atol=1e-2)
