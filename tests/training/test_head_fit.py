"""The head alone: it learns where things are, and what the features say, without touching the encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.sequences.kitti import kitti_odometry
from training.data.prepared import CANONICAL_CAMERA, FusionSettings, load_prepared, prepare_sequence
from training.data.view_batches import ViewSamples, ViewSettings
from training.head_fit import HeadSettings, RaySettings, disturbance, disturbed_features, fit_head, fit_prior
from training.losses.fused_occupancy import OccupancyLink, occupancy_cross_entropy
from training.networks.density_field import DEPTH_UNITS, DensityField


@pytest.fixture(scope="module")
def samples(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> ViewSamples:
    settings = FusionSettings(free_samples=20_000, views=3)
    cache = tmp_path_factory.mktemp("head_cache")
    files = prepare_sequence(kitti_odometry(synthetic_drive), cache, settings=settings, workers=1)
    return ViewSamples([[load_prepared(f) for f in files]], ViewSettings(occupancy_points=1024), seed=0, length=1)


def _occupancy_loss(field: DensityField, link: OccupancyLink, samples: ViewSamples) -> float:
    sample = samples.unmirrored()[7]
    with torch.no_grad():
        logit = link(field.density_logit(field.encode(sample["image"][None]), sample["points"][None]))
        return occupancy_cross_entropy(logit, sample["target"][None], sample["weight"][None]).item()


@pytest.fixture
def field() -> DensityField:
    torch.manual_seed(0)
    return DensityField(CANONICAL_CAMERA, pretrained=False).eval()


def test_the_prior_needs_no_image(field: DensityField, samples: ViewSamples) -> None:
    start = _occupancy_loss(field, OccupancyLink(), samples)
    fit_prior(field, samples, 60, offset=3.0)
    assert torch.all(field.density_layer.weight[:, : len(DEPTH_UNITS)] == 0)  # no image, no use for its depth
    assert _occupancy_loss(field, OccupancyLink(), samples) < 0.8 * start


def test_the_head_learns_and_leaves_the_encoder_alone(field: DensityField, samples: ViewSamples) -> None:
    link = OccupancyLink()
    start = _occupancy_loss(field, link, samples)
    before = {name: value.clone() for name, value in field.encoder.state_dict().items()}
    settings = HeadSettings(steps=60, images=3, batch_size=2, points=512, rays=16)
    rays = RaySettings(samples=16, near=3.0, far=80.0)
    fit_head(field, link, samples, settings, rays, occupancy=1.0, stereo_depth=0.1, half_resolution=False, seed=0)
    assert _occupancy_loss(field, link, samples) < 0.8 * start
    assert all(torch.equal(value, before[name]) for name, value in field.encoder.state_dict().items())


def test_stretching_the_opacity_leaves_order_and_probability(field: DensityField, samples: ViewSamples) -> None:
    """Same fit with and without the last steps: density renders otherwise, the linked probability is the same."""
    rays = RaySettings(samples=16, near=3.0, far=80.0)
    logits, probabilities = [], []
    start = {name: value.clone() for name, value in field.state_dict().items()}
    points = samples.unmirrored().occupancy(3)["points"][None]
    for steps in (0, 20):
        field.load_state_dict(start)
        link = OccupancyLink()
        settings = HeadSettings(steps=10, images=2, batch_size=1, points=64, rays=16, opacity_steps=steps)
        fit_head(field, link, samples, settings, rays, occupancy=1.0, stereo_depth=0.1, half_resolution=True, seed=0)
        with torch.no_grad():
            logits.append(field.density_logit(torch.zeros(1, 64, 2, 2), points))
            probabilities.append(link(logits[-1]))
    assert (logits[1] - logits[0]).abs().max() > 0.1
    torch.testing.assert_close(probabilities[1], probabilities[0], rtol=1e-3, atol=1e-3)


def test_disturbed_depth_is_off_by_as_much_as_asked_and_dropped_channels_are_scaled() -> None:
    spec = PointCodeSpec()
    raw = torch.ones(64, 65, 8, 20)
    raw[:, 0] = spec.depth_code(torch.tensor(20.0))
    v, u = torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 21), indexing="ij")
    coordinates = torch.stack([u, v], dim=-1).reshape(1, -1, 2).expand(64, -1, 2)
    generator = torch.Generator().manual_seed(0)
    none = disturbance(HeadSettings(feature_dropout=0.0, depth_noise=0.0), 64, 65, generator)
    torch.testing.assert_close(disturbed_features(raw, coordinates, *none, spec), raw[..., :1, 0].expand(64, 65, 189))
    drawn = disturbance(HeadSettings(feature_dropout=0.25, depth_noise=0.1), 64, 65, generator)
    some = disturbed_features(raw, coordinates, *drawn, spec)
    error = torch.log(spec.inverse_depth(some[:, 0]) * 20.0)
    assert error.mean(dim=1).std().item() > 0.04  # of whole images
    assert 0.06 < error.std().item() < 0.15
    assert some[:, 1:].unique().tolist() == pytest.approx([0.0, 1.0 / 0.75])
    assert (some[:, 1:] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
