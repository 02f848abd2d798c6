"""Stage `teacher`: the multi-view density field (MVBTS), whose encoder views see what hides from one of them."""

from dataclasses import dataclass
from typing import Any

import torch

from scene_completion_training.checkpoints import TrainedWeights
from scene_completion_training.configuration import MultiViewConfiguration
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.field_stage import FieldStage, encoded_views
from scene_completion_training.networks.multi_view_field import MultiViewField, MultiViewObservation
from scene_completion_training.stage import Batch


@dataclass
class TeacherConfiguration(MultiViewConfiguration):
    """What the multi-view teacher needs."""

    stage: str = "teacher"


class TeacherStage(FieldStage):
    """Trains a `MultiViewField` from batches of `ViewSamples` with several encoder views."""

    configuration_class = TeacherConfiguration
    field_class = MultiViewField
    next_command = "scene-completion train --config training/configs/student.yaml teacher={checkpoint}"
    field: MultiViewField
    settings: TeacherConfiguration

    def __init__(self, settings: TeacherConfiguration) -> None:
        super().__init__(settings)
        encoder, code, depth = self.make_encoder(), self.viewpoint.volume.point_code, bool(settings.losses.dense_depth)
        self.field = MultiViewField(self.camera, code, encoder=encoder, hidden=settings.hidden, depth_channel=depth)

    def data_needs(self) -> DataNeeds:
        """Several views."""
        return DataNeeds(encoder_views=self.settings.encoder_views, rendered=self.renders)

    def take(self, weights: TrainedWeights) -> None:
        """Takes a teacher's weights, or the encoder alone of a field that has no views to fuse."""
        if any(name.startswith("fusion.") for name in weights.field):
            super().take(weights)
        else:
            self.encoder.load_state_dict(weights.under("encoder."))

    def observe(self, batch: Batch, generator: torch.Generator | None = None) -> MultiViewObservation:
        """The teacher with the batch's views encoded; views are dropped where there is a generator."""
        images, _, poses = encoded_views(batch)
        return self.field.observe(self.sized(images), poses, generator)

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Depth of every pixel of every encoder view, rendered patches of loss views, voxel centres."""
        seen = self.observe(batch, generator if self.training else None)
        terms = self.dense_depth(seen.depth_codes.flatten(0, 1), encoded_views(batch)[1].flatten(0, 1))
        if not self.depth_only:
            terms |= self.volume_terms(seen, self.rendered(seen, batch, generator), batch, generator)
        return terms

    def configure_optimizers(self) -> Any:
        """Adam with the rates of the settings."""
        return self.grouped_optimiser(self.field.encoder.trunk, [self.field.fusion, self.link])
