"""Stage `single_view`: the Behind-the-Scenes density field, self-supervised from posed stereo video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene_completion_training.configuration import Configuration
from scene_completion_training.field_stage import SingleImageStage
from scene_completion_training.networks.density_field import DensityField


@dataclass
class SingleViewConfiguration(Configuration):
    """It has no keys of its own.

    Attributes:
        stage: Name of the stage.
    """

    stage: str = "single_view"


class SingleViewStage(SingleImageStage):
    """Trains a `DensityField` from batches of `ViewSamples`.

    Args:
        settings: The configuration.
    """

    configuration_class = SingleViewConfiguration
    field: DensityField

    def __init__(self, settings: Configuration) -> None:
        super().__init__(settings)
        depth = bool(settings.losses.dense_depth)
        self.field = DensityField(
            self.camera,
            self.viewpoint.volume.point_code,
            encoder=self.make_encoder(),
            depth_channel=depth,
            hidden=settings.hidden,
        )

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Depth of every pixel, rendered patches of loss views, voxel centres."""
        seen = self.observe(batch)
        terms = self.dense_depth(seen.depth_code, batch["hint"])
        if not self.depth_only:
            terms |= self.volume_terms(seen, self.rendered(seen, batch, generator), batch, generator)
        return terms
