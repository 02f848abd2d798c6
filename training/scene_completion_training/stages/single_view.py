"""Stage `single_view`: the Behind-the-Scenes density field, self-supervised from posed stereo video."""

from dataclasses import dataclass

import torch

from scene_completion_training.configuration import SingleImageConfiguration
from scene_completion_training.field_stage import SingleImageStage
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.stage import Batch


@dataclass
class SingleViewConfiguration(SingleImageConfiguration):
    """What a single-view field needs."""

    stage: str = "single_view"


class SingleViewStage(SingleImageStage):
    """Trains a `DensityField` from batches of `ViewSamples`."""

    configuration_class = SingleViewConfiguration
    field: DensityField
    settings: SingleViewConfiguration

    def __init__(self, settings: SingleViewConfiguration) -> None:
        super().__init__(settings)
        self.field = self.make_density(depth_channel=bool(settings.losses.dense_depth))

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Depth of every pixel, rendered patches of loss views, voxel centres."""
        seen = self.observe(batch)
        terms = self.dense_depth(seen.depth_code, batch["hint"])
        if not self.depth_only:
            terms |= self.volume_terms(seen, self.rendered(seen, batch, generator), batch, generator)
        return terms
