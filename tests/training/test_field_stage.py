"""What all stages share: samples and arithmetic."""

import dataclasses
from pathlib import Path

import pytest
import torch

from scene_completion_training.configuration import LossWeights, RenderSettings
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import ViewSamples, ViewSettings
from scene_completion_training.field_stage import fit_prior
from scene_completion_training.losses import occupancy_cross_entropy
from scene_completion_training.networks.density_field import DEPTH_UNITS, DensityField, OccupancyLink
from scene_completion_training.stages.density import TeacherConfiguration, TeacherStage
from tests.training.small_trainings import VIEW, VIEWPOINT, batches, small_data


@pytest.mark.parametrize(
    "losses", [{}, {"photometric": 0.0}, dict.fromkeys(("photometric", "smoothness", "stereo_depth"), 0.0)]
)
def test_samples_hold_views_where_a_loss_renders_them(synthetic_drive: Path, losses: dict[str, float]) -> None:
    settings = TeacherConfiguration(
        pretrained=False, camera=VIEW, losses=LossWeights(**losses), half_resolution_steps=1
    )
    stage = TeacherStage(settings)
    rendered = stage.data_needs().rendered
    (batch,) = batches(small_data(synthetic_drive), 1, views=3, rendered=rendered)
    assert rendered == (len(losses) < 3) == ("views" in batch)
    with torch.no_grad():
        assert "dense_depth" in stage.terms(batch, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_for_the_encoder_alone(synthetic_drive: Path, precision: torch.dtype) -> None:
    """With an encoder that ignores it, nothing changes at all: half precision would move points by pixels."""
    render = RenderSettings(patches=1, samples=8)
    stage = TeacherStage(TeacherConfiguration(pretrained=False, camera=VIEW, half_resolution_steps=1, render=render))
    (batch,) = batches(small_data(synthetic_drive), 1, views=3)
    plain = stage._computed(batch, torch.Generator().manual_seed(0))
    assert stage.encoder.mixed is None
    forward = stage.encoder.forward

    def full(image: torch.Tensor) -> torch.Tensor:
        assert stage.encoder.mixed is precision
        stage.encoder.mixed = None
        return forward(image)

    stage.encoder.forward = full  # type: ignore[method-assign]
    with torch.autocast("cpu", dtype=precision):
        mixed = stage._computed(batch, torch.Generator().manual_seed(0))
    assert set(mixed) == set(plain)
    for name, value in plain.items():
        torch.testing.assert_close(mixed[name], value, rtol=1e-6, atol=0)


@pytest.fixture(scope="module")
def samples(synthetic_drive: Path) -> ViewSamples:
    data = dataclasses.replace(small_data(synthetic_drive), views=ViewSettings(occupancy_points=1024))
    served = SequencesData(data, 1, 0, viewpoint=VIEWPOINT)
    served.setup("fit")
    return served.samples()


def _occupancy_loss(field: DensityField, link: OccupancyLink, samples: ViewSamples) -> float:
    sample = samples.unmirrored()[7]
    with torch.no_grad():
        logit = link(field.observe(sample["image"][None]).density_logit(sample["points"][None]))
        return occupancy_cross_entropy(logit, sample["target"][None], sample["weight"][None]).item()


@pytest.fixture
def field() -> DensityField:
    torch.manual_seed(0)
    return DensityField(VIEWPOINT.camera).eval()


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
