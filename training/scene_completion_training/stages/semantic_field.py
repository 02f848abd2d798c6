"""Stage `semantic_field`: density and classes learned together, from images and pseudo-labels of their pixels (S4C)."""

from dataclasses import dataclass

import torch
from torch import nn

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import CITYSCAPES_CLASSES
from scene_completion_training.configuration import SingleImageConfiguration
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.field_stage import BesideDensityStage
from scene_completion_training.losses.occupancy import rendered_class_loss
from scene_completion_training.networks.feature_field import FeatureObservation, SemanticField
from scene_completion_training.rendering.patches import composite_features, invalid_rays, observed_values
from scene_completion_training.stage import Batch

CLASSES = len(CITYSCAPES_CLASSES)


@dataclass
class SemanticFieldConfiguration(SingleImageConfiguration):
    """What S4C needs."""

    stage: str = "semantic_field"
    class_weight: float = 0.02  # weight of the classes beside the losses of the density
    # Weights of Cityscapes' train ids among each other, by default those of S4C: 10 for sidewalk, pole and traffic
    # sign, 5 for traffic light and person.
    weights_of_classes: tuple[float, ...] = (1, 10, 1, 1, 1, 10, 5, 10, 1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 1)

    def check(self) -> None:
        """Refuses a training without pseudo-labels, and one that measures frames, whose pixels have none."""
        super().check()
        if not self.data.class_images or self.measures:
            what = "classes of pixels belong to images as they lie"
            cure = "Name their folder, and set the weights of losses that measure depth or voxels to 0"
            raise ConfigurationError(what, where="data.class_images", cure=cure)
        if len(self.weights_of_classes) != CLASSES or min(self.weights_of_classes) < 0.0:
            what = f"{self.weights_of_classes}"
            raise ConfigurationError(what, where="weights_of_classes", cure=f"Give {CLASSES} weights, none below 0")


class SemanticFieldStage(BesideDensityStage):
    """Trains a `SemanticField`. What a point is comes from the features of its pixel and from its place, as in S4C."""

    configuration_class = SemanticFieldConfiguration
    field_class = SemanticField
    next_command = "scene-completion evaluate semantics --checkpoint {checkpoint} ..."
    field: SemanticField
    settings: SemanticFieldConfiguration

    def __init__(self, settings: SemanticFieldConfiguration) -> None:
        super().__init__(settings)
        density = self.make_density(depth_channel=bool(settings.losses.dense_depth))
        self.field = SemanticField(
            density, target_size=CLASSES, channels=CLASSES, units=settings.hidden, expansion=nn.Identity(), reads="map"
        )
        self.start_learning()

    @property
    def frozen(self) -> bool:
        """The density goes on learning."""
        return False

    def data_needs(self) -> DataNeeds:
        """Views, and the classes of their pixels."""
        return DataNeeds(classes=True)

    def weights(self) -> dict[str, float]:
        """Weight of each loss."""
        return {**super().weights(), "classes": self.settings.class_weight}

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The losses of the density, and the classes along the same rays."""
        seen: FeatureObservation = self.observe(batch)
        rendered = self.rendered(seen, batch, generator)
        assert rendered is not None
        terms = self.volume_terms(seen, rendered, batch, generator)
        outside = ~seen.in_view(rendered.points).reshape(rendered.weights.shape)
        classes = observed_values(batch["view_classes"][:, :, None], rendered)[..., 0].long()
        counted = (classes < CLASSES) & ~invalid_rays(rendered.weights, outside[:, None])
        probabilities = composite_features(seen.features(rendered.points).softmax(dim=-1), rendered.weights)
        weights = probabilities.new_tensor(self.settings.weights_of_classes)
        return {**terms, "classes": rendered_class_loss(probabilities, classes, counted, weights)}
