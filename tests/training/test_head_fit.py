"""The head alone: it learns where things are, and what the features say, without touching the encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.sequences.kitti import kitti_odometry
from training.data.prepared import CANONICAL_CAMERA, load_prepared, prepare_sequence
from training.data.view_batches import ViewSamples, ViewSettings
from training.data.voxel_evidence import FusionSettings
from training.head_fit import HeadSettings, RaySettings, disturbance, disturbed_features, fit_head, fit_prior
from training.losses.dense_depth import block_depth
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
    return DensityField(CANONICAL_CAMERA).eval()


def test_the_prior_needs_no_image(field: DensityField, samples: ViewSamples) -> None:
    start = _occupancy_loss(field, OccupancyLink(), samples)
    fit_prior(field, OccupancyLink(), samples, 60)
    assert torch.all(field.density_layer.weight[:, : len(DEPTH_UNITS)] == 0)  # no image, no use for its depth
    assert _occupancy_loss(field, OccupancyLink(), samples) < 0.8 * start


def test_the_prior_is_fitted_through_the_link_that_the_training_starts_with(
    field: DensityField, samples: ViewSamples
) -> None:
    """A student has its teacher's link; a prior fitted through another one says something else under it."""
    link = OccupancyLink(-1.0)
    with torch.no_grad():
        link.log_scale.fill_(-1.0)
    before = {name: value.clone() for name, value in link.state_dict().items()}
    reported = fit_prior(field, link, samples, 200)
    found = [samples.unmirrored().occupancy(4 * 200 + i) for i in range(8)]
    points, target, weight = (torch.cat([one[key] for one in found])[None] for key in ("points", "target", "weight"))
    with torch.no_grad():
        logit = field.prior_logit(points)
        under = [occupancy_cross_entropy(one(logit), target, weight).item() for one in (link, OccupancyLink())]
    assert under[0] < 1.1 * reported < 0.8 * under[1]
    assert all(torch.equal(value, before[name]) for name, value in link.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in link.parameters())


def test_the_head_learns_and_leaves_the_encoder_alone(field: DensityField, samples: ViewSamples) -> None:
    link = OccupancyLink()
    start = _occupancy_loss(field, link, samples)
    before = {name: value.clone() for name, value in field.encoder.state_dict().items()}
    settings = HeadSettings(steps=60, images=3, batch_size=2, points=512, rays=16)
    rays = RaySettings(samples=16, near=3.0, far=80.0)
    fit_head(field, link, samples, settings, rays, occupancy=1.0, stereo_depth=0.1, half_resolution=False, seed=0)
    assert _occupancy_loss(field, link, samples) < 0.8 * start
    assert all(torch.equal(value, before[name]) for name, value in field.encoder.state_dict().items())


class _Telling:
    """Samples whose image holds the depth in its red channel."""

    def __init__(self, samples: ViewSamples) -> None:
        self.samples = samples

    def unmirrored(self) -> _Telling:
        return _Telling(self.samples.unmirrored())

    def labelled(self, number: int) -> dict[str, torch.Tensor]:
        sample = self.samples.labelled(number)
        sample["image"][0] = sample["hint"]
        return sample


class _Reading(torch.nn.Module):
    """An encoder that reads it, or one that says 20 m everywhere."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        depth = block_depth(image[:, 0], 2)
        depth = torch.where((depth > 0) & torch.tensor(self.reads), depth, torch.full_like(depth, 20.0))
        code = PointCodeSpec().depth_code(depth)[:, None]
        return torch.cat([code, torch.zeros(len(image), 63, *code.shape[2:])], dim=1)


def test_the_head_uses_the_depth_that_the_features_hold(samples: ViewSamples) -> None:
    """With features that know the depth the fit ends lower than with features that know nothing."""
    settings = HeadSettings(steps=150, images=6, batch_size=3, points=512, rays=16, depth_noise=0.02, opacity_steps=0)
    rays = RaySettings(samples=32, near=3.0, far=80.0)
    losses = []
    for reads in (False, True):
        torch.manual_seed(0)
        field = DensityField(CANONICAL_CAMERA).eval()
        field.encoder = _Reading(reads)  # type: ignore[assignment]
        options = {"occupancy": 0.3, "stereo_depth": 1.0, "half_resolution": False, "seed": 0}
        losses.append(fit_head(field, OccupancyLink(), _Telling(samples), settings, rays, **options))
    assert losses[1] < 0.9 * losses[0], losses


def test_stretching_the_opacity_leaves_order_and_probability(field: DensityField, samples: ViewSamples) -> None:
    """Same fit with and without the last steps: density renders otherwise, order and linked logit stay."""
    rays = RaySettings(samples=16, near=3.0, far=80.0)
    logits, linked = [], []
    start = {name: value.clone() for name, value in field.state_dict().items()}
    points = samples.unmirrored().occupancy(3)["points"][None]
    for steps in (0, 20):
        field.load_state_dict(start)
        link = OccupancyLink()
        settings = HeadSettings(steps=10, images=2, batch_size=1, points=64, rays=16, opacity_steps=steps)
        fit_head(field, link, samples, settings, rays, occupancy=1.0, stereo_depth=0.1, half_resolution=True, seed=0)
        with torch.no_grad():
            logits.append(field.density_logit(torch.zeros(1, 64, 2, 2), points))
            linked.append(link(logits[-1]))
    assert (logits[1] - logits[0]).abs().max() > 0.1
    assert torch.equal(logits[1][0, logits[0][0].argsort()].diff() >= -1e-4, torch.ones(logits[0].numel() - 1).bool())
    torch.testing.assert_close(linked[1], linked[0], rtol=1e-3, atol=1e-3)


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
