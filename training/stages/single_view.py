"""Stage `single_view`: the Behind-the-Scenes density field, self-supervised from posed stereo video."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scene_completion_training.field_stage import FieldStage
from scene_completion_training.networks.density_field import DensityField, SingleViewObservation
from scene_completion_training.settings import StageSettings


class SingleViewStage(FieldStage):
    """Trains a `DensityField` from batches of `ViewSamples`.

    Args:
        settings: Losses, steps and rates.
    """

    field: DensityField

    def __init__(self, settings: StageSettings) -> None:
        super().__init__(settings)
        depth = bool(settings.losses.dense_depth)
        self.field = DensityField(self.camera, encoder=self.make_encoder(), depth_channel=depth, hidden=settings.hidden)

    def observe(self, batch: dict[str, Tensor]) -> SingleViewObservation:
        """The field with the batch's images encoded."""
        return self.field.observe(self.sized(batch["image"]))

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Depth of every pixel, rendered patches of loss views, voxel centres."""
        seen = self.observe(batch)
        terms = self.dense_depth(seen.depth_code, batch["hint"])
        if not self.depth_only:
            terms |= self.volume_terms(seen, self.rendered(seen, batch, generator), batch, generator)
        return terms

    def configure_optimizers(self) -> Any:
        """Adam with the rates of the settings."""
        field = self.field
        head = [field.feature_layer, field.position_layer, field.density_layer, self.link]
        return self.grouped_optimiser(field.encoder.trunk, head)
