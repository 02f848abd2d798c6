"""A stage is one class and one line: a toy trains and is read back."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training import stages
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration, read_configuration
from scene_completion_training.field_stage import SingleImageStage
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.runner import train


class ToyStage(SingleImageStage):
    """Learns that nothing is there."""

    def __init__(self, settings: Configuration) -> None:
        super().__init__(settings)
        self.field = DensityField(self.camera, encoder=self.make_encoder())

    def weights(self) -> dict[str, float]:
        """There is one loss."""
        return {"density": 1.0}

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The mean density."""
        return {"density": self.observe(batch).density(batch["points"]).mean()}


TOY = f"{__name__}:ToyStage"


def test_a_stage_is_a_class_and_a_line(synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stages.STAGES, "toy", TOY)
    file = tmp_path / "toy.yaml"
    file.write_text(
        f"""
stage: toy
steps: 2
warmup: 1
half_resolution_steps: 2
checkpoint_every: 1
picture_every: 0
prior_steps: 1
pretrained: false
data:
  root: {synthetic_drive.parent}
  cache: {synthetic_drive.parent}/stage_cache
  workers: 0
  sources: [{{folder: {synthetic_drive.name}}}]
  fusion: {{free_samples: 20000, views: 3}}
  views: {{occupancy_points: 256}}
"""
    )
    whole = train(read_configuration(file, [f"output={tmp_path / 'whole'}"], Configuration))
    read = Checkpoint.read(whole)
    assert read.stage == "toy" and isinstance(read.field_of(DensityField), DensityField)
    monkeypatch.delitem(stages.STAGES, "toy")
    with pytest.raises(BundleError, match=r"stage 'toy' does not exist; scene_completion_ros \d.* wrote it"):
        Checkpoint.read(whole)
    with pytest.raises(ConfigurationError, match=r"toy\.yaml: stage 'toy' does not exist. There are single_view, teac"):
        read_configuration(file, [], Configuration)


def test_another_package_adds_stages_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(group: str) -> list[EntryPoint]:
        return [EntryPoint("toy", TOY, group), EntryPoint("teacher", TOY, group)]

    monkeypatch.setattr(stages, "entry_points", found)
    assert stages.stage_class("toy") is ToyStage
    assert stages.stage_class("teacher") is not ToyStage  # none of ours is replaced
