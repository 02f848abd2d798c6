"""Stage `point_agglomeration`: several 2D foundation models in one network of points, as CUA-O3D was published."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.losses import feature_agreement
from scene_completion_training.networks.agglomerated_field import AgglomeratedPoints, HeadKind
from scene_completion_training.points.data import PointData, PointDataSettings
from scene_completion_training.points.lifting import LiftingSettings, PixelTeacher
from scene_completion_training.stage import Batch, Stage

POWER = 0.9  # of the fall of the learning rate


@dataclass
class PointAgglomerationConfiguration(TrainingConfiguration):
    """What the agglomeration on points needs."""

    stage: str = "point_agglomeration"
    learning_rate: float = 1e-3
    warmup: int = 1
    gradient_clip: float = 0.0
    data: PointDataSettings = field(default_factory=PointDataSettings)
    lifting: LiftingSettings = field(default_factory=LiftingSettings)  # how features of pixels come to points
    teachers: list[PixelTeacher] = field(default_factory=list)  # a point is compared with all of them or none
    heads: HeadKind = "linear"  # "linear" as CUA-O3D released them, or "mlp" as its paper says

    def check(self) -> None:
        """Refuses a training without teachers, and numbers that cannot be."""
        super().check()
        feature_agreement.check_teachers(self.teachers, "teachers")
        self.lifting.check("lifting")
        if not all(teacher.dim > 0 and teacher.cell > 0 and teacher.noise >= 0.0 for teacher in self.teachers):
            what = f"{[(teacher.dim, teacher.cell, teacher.noise) for teacher in self.teachers]}"
            raise ConfigurationError(what, where="teachers: dim, cell, noise", cure="Give positive numbers")
        if not self.data.voxel_size > 0.0:
            what, cure = f"{self.data.voxel_size} m", "Give a positive edge"
            raise ConfigurationError(what, where="data.voxel_size", cure=cure)


class PointAgglomerationStage(Stage):
    """Trains `AgglomeratedPoints` on samples of `PointSamples`, by Adam with a polynomial fall of its rate."""

    configuration_class = PointAgglomerationConfiguration
    field_class = AgglomeratedPoints
    next_command = "scene-completion evaluate points --checkpoint {checkpoint} --data FOLDER --bank BANK ..."
    settings: PointAgglomerationConfiguration

    def __init__(self, settings: PointAgglomerationConfiguration) -> None:
        super().__init__(settings)
        self.field = AgglomeratedPoints({teacher.name: teacher.dim for teacher in settings.teachers}, settings.heads)
        self.uncertainty = feature_agreement.UncertaintyWeights([teacher.name for teacher in settings.teachers])

    def make_data(self) -> PointData:
        """Scenes with lifted features."""
        settings = self.settings
        return PointData(settings.data, settings.teachers, settings.lifting, steps=settings.steps, seed=settings.seed)

    def weights(self) -> dict[str, float]:
        """See `term_weights`."""
        return feature_agreement.term_weights(self.settings.teachers)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One step; the uncertainties are curves of their own."""
        self.log_dict({f"uncertainty/{name}": p for name, p in self.uncertainty.uncertainties.items()})
        return super().training_step(batch, batch_index)

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """How far the features of voxels are from what the teachers say of a point in each."""
        features = self.field(batch["voxel_index"], batch["inputs"])[batch["known"]]
        names = [teacher.name for teacher in self.settings.teachers]
        targets = {name: batch[f"target/{name}"].float() for name in names}
        shared = torch.stack([target.any(dim=1) for target in targets.values()]).all(dim=0)
        predicted = {name: self.field.heads.of(name, features) for name in names}
        weights = dict.fromkeys(names, shared)
        return feature_agreement.agglomeration_terms(
            self.settings.teachers, self.uncertainty, predicted, targets, weights
        )

    def configure_optimizers(self) -> Any:
        """Adam on the network and the uncertainties."""
        optimiser = torch.optim.Adam(self.parameters(), self.settings.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.polynomial)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def polynomial(self, step: int) -> float:
        """Factor on the learning rate: linear over the warm-up, times (1 - step / steps)^0.9."""
        settings = self.settings
        left = max(0.0, 1.0 - step / settings.steps)
        return float(min(1.0, (step + 1) / max(1, settings.warmup)) * left**POWER)
