"""Stage `supervised`: the feature field's network, taught true classes. A measuring instrument, it learns from labels.

How well an unsupervised field names voxels is limited by its network, its image and its density, besides the features
it was given. This stage says by how much: the same network beside the same frozen density, with its own decoder and
units, learns the class of every occupied voxel in the image, seen or hidden, from the exact voxels of rendered towns.
Nothing unsupervised starts from it, and it is not deployed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.losses.class_agreement import class_cross_entropy
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField, FeatureObservation
from scene_completion_training.settings import SupervisedSettings


class SupervisedStage(FieldStage):
    """Trains a `FeatureField` whose expanded features are logits of `COMMON_CLASSES` without "empty".

    It needs batches of `ViewSamples` with labels. Those are drawn with regard to how rare classes are; the loss weighs
    all alike.

    Args:
        settings: Steps, rates and sizes.
    """

    field: FeatureField
    settings: SupervisedSettings

    def __init__(self, settings: SupervisedSettings) -> None:
        super().__init__(settings)
        density = DensityField(self.camera, encoder=self.make_encoder(), depth_channel=True, hidden=settings.hidden)
        self.field = FeatureField(
            density, target_size=len(COMMON_CLASSES) - 1, channels=settings.channels, units=settings.units
        )
        self.start_learning()

    def start_learning(self) -> None:
        """The density stays as it is, its trunk included."""
        super().start_learning()
        self.field.density.requires_grad_(False)

    def observe(self, batch: dict[str, Tensor]) -> FeatureObservation:
        """The field with the batch's images encoded."""
        return self.field.observe(self.sized(batch["image"]))

    def weights(self) -> dict[str, float]:
        """There is one loss."""
        return {"classes": 1.0}

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Cross entropy of the labelled voxels that lie in the view."""
        seen, points = self.observe(batch), batch["label_points"]
        logits = self.field.expand(seen.features(points))
        return {"classes": class_cross_entropy(logits, batch["label_classes"], seen.in_view(points))}

    def configure_optimizers(self) -> Any:
        """Adam with the rates of the settings."""
        density = self.field.density
        head = [density.feature_layer, density.position_layer, density.density_layer, self.link]
        return self.grouped_optimiser(density.encoder.trunk, head)
