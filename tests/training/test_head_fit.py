"""The head alone: it learns where things are, and what the features say, without touching the encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.sequences.kitti import kitti_odometry
from training.data.prepared import CANONICAL_CAMERA, FusionSettings, load_prepared, prepare_sequence
from training.data.view_batches import ViewSamples, ViewSettings
from training.losses.fused_occupancy import OccupancyLink, occupancy_cross_entropy
from training.networks.density_field import DEPTH_UNITS, DensityField
from training.stages.head_fit import HeadSettings, RaySettings, disturbed_features, fit_head, fit_prior


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


def test_disturbed_depth_is_off_by_as_much_as_asked_and_dropped_channels_are_scaled() -> None:
    spec = PointCodeSpec()
    raw = torch.ones(64, 65, 8, 20)
    raw[:, 0] = spec.depth_code(torch.tensor(20.0))
    generator = torch.Generator().manual_seed(0)
    none = HeadSettings(feature_dropout=0.0, depth_noise=0.0)
    torch.testing.assert_close(disturbed_features(raw, none, spec, generator), raw)
    some = disturbed_features(raw, HeadSettings(feature_dropout=0.25, depth_noise=0.1), spec, generator)
    error = torch.log(spec.inverse_depth(some[:, 0]) * 20.0)
    assert error.mean(dim=(1, 2)).std().item() > 0.04  # of whole images
    assert 0.06 < error.std().item() < 0.15
    assert some[:, 1:].unique().tolist() == pytest.approx([0.0, 1.0 / 0.75])
    assert (some[:, 1:] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
