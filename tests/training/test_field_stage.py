"""What all stages share: samples and arithmetic."""

from pathlib import Path

import pytest
import torch

from benchmarks.training_step import synthetic_batch
from scene_completion_training.configuration import LossWeights, RenderSettings
from scene_completion_training.stages.teacher import TeacherConfiguration, TeacherStage
from tests.training.small_trainings import batches, small_data


@pytest.mark.parametrize(
    "losses", [{}, {"photometric": 0.0}, dict.fromkeys(("photometric", "smoothness", "stereo_depth"), 0.0)]
)
def test_samples_hold_views_where_a_loss_renders_them(synthetic_drive: Path, losses: dict[str, float]) -> None:
    settings = TeacherConfiguration(pretrained=False, losses=LossWeights(**losses), half_resolution_steps=1)
    stage = TeacherStage(settings)
    rendered = stage.data_needs().rendered
    (batch,) = batches(small_data(synthetic_drive), 1, views=3, rendered=rendered)
    assert rendered == (len(losses) < 3) == ("views" in batch)
    with torch.no_grad():
        assert "dense_depth" in stage.terms(batch, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_for_the_encoder_alone(precision: torch.dtype) -> None:
    """With an encoder that ignores it, nothing changes at all: half precision would move points by pixels."""
    render = RenderSettings(patches=1, samples=8)
    stage = TeacherStage(TeacherConfiguration(pretrained=False, half_resolution_steps=1, render=render))
    batch = synthetic_batch()
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
