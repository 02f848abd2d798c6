"""Stage `supervised`: the feature field's network, taught true classes. A measuring instrument, it learns from labels.

How well an unsupervised field names voxels is limited by its network, its image and its density, besides the features
it was given. This stage says by how much. The same network stands beside the same frozen density, with its own decoder
and units. It learns the class of every occupied voxel in the image, seen or hidden, from the exact voxels of rendered
towns. Nothing unsupervised starts from it, and it is not deployed.
"""

from dataclasses import dataclass

import torch

from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_training.configuration import SingleImageConfiguration
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.field_stage import BesideDensityStage
from scene_completion_training.losses.occupancy import class_cross_entropy
from scene_completion_training.networks.feature_field import ClassField, FeatureObservation
from scene_completion_training.stage import Batch


@dataclass
class SupervisedConfiguration(SingleImageConfiguration):
    """What a field needs that learns classes from labelled voxels: a measuring instrument, see the stage."""

    stage: str = "supervised"
    label_points: int = 4096

    def check(self) -> None:
        """Refuses a training without a density."""
        super().check()
        self.check_start()


class SupervisedStage(BesideDensityStage):
    """Trains a `ClassField`, whose expanded features are logits of `COMMON_CLASSES` without "empty".

    It needs batches of `ViewSamples` with labels. Those are drawn with regard to how rare classes are; the loss weighs
    all alike.
    """

    configuration_class = SupervisedConfiguration
    field_class = ClassField
    next_command = "scene-completion evaluate semantics --checkpoint {checkpoint} --student BUNDLE ..."
    field: ClassField
    settings: SupervisedConfiguration

    def __init__(self, settings: SupervisedConfiguration) -> None:
        super().__init__(settings)
        self.field = ClassField(self.make_density(), target_size=len(COMMON_CLASSES) - 1, units=64)
        self.start_learning()

    def data_needs(self) -> DataNeeds:
        """Labelled voxels."""
        return DataNeeds(label_points=self.settings.label_points, rendered=False)

    def weights(self) -> dict[str, float]:
        """There is one loss."""
        return {"classes": 1.0}

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Cross entropy of the labelled voxels that lie in the view."""
        seen: FeatureObservation = self.observe(batch)
        points = batch["label_points"]
        logits = self.field.expand(seen.features(points))
        return {"classes": class_cross_entropy(logits, batch["label_classes"], seen.in_view(points))}
