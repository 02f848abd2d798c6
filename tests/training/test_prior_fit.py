"""The head learns where things are on average, without an image."""

from pathlib import Path

import pytest
import torch

from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.data.prepared import load_prepared, prepare_sequence
from scene_completion_training.data.view_batches import ViewSamples, ViewSettings
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.losses.occupancy import occupancy_cross_entropy
from scene_completion_training.networks.density_field import DEPTH_UNITS, DensityField
from scene_completion_training.networks.occupancy_link import OccupancyLink
from scene_completion_training.prior_fit import fit_prior
from scene_completion_training.viewpoint import STREET_CAMERA


@pytest.fixture(scope="module")
def samples(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> ViewSamples:
    settings = FusionSettings(free_samples=20_000, views=3)
    cache = tmp_path_factory.mktemp("prior_cache")
    files = prepare_sequence(kitti_odometry(synthetic_drive), cache, settings=settings, workers=1)
    return ViewSamples([[load_prepared(f) for f in files]], ViewSettings(occupancy_points=1024), seed=0, length=1)


def _occupancy_loss(field: DensityField, link: OccupancyLink, samples: ViewSamples) -> float:
    sample = samples.unmirrored()[7]
    with torch.no_grad():
        logit = link(field.observe(sample["image"][None]).density_logit(sample["points"][None]))
        return occupancy_cross_entropy(logit, sample["target"][None], sample["weight"][None]).item()


@pytest.fixture
def field() -> DensityField:
    torch.manual_seed(0)
    return DensityField(STREET_CAMERA).eval()


def test_the_prior_needs_no_image(field: DensityField, samples: ViewSamples) -> None:
    start = _occupancy_loss(field, OccupancyLink(), samples)
    fit_prior(field, OccupancyLink(), samples, 60)
    assert torch.all(field.density_layer.weight[:, : len(DEPTH_UNITS)] == 0)  # no image, no use for its depth
    assert _occupancy_loss(field, OccupancyLink(), samples) < 0.8 * start


def test_the_prior_is_fitted_through_the_link_training_starts_with(field: DensityField, samples: ViewSamples) -> None:
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
    assert under[0] < 1.25 * reported < 0.8 * under[1]
    assert all(torch.equal(value, before[name]) for name, value in link.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in link.parameters())
