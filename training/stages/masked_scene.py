"""Stage `masked_scene`: what hidden parts of a scene of voxels are like, told by the visible ones (MSM)."""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError, TrainingError
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.masked_scene.data import MaskSettings, SceneData, SceneDataSettings
from scene_completion_training.masked_scene.objective import (
    Distance,
    Masking,
    SceneView,
    distance,
    momentum,
    sampled,
    spread,
    student_features,
    update_teacher,
)
from scene_completion_training.masked_scene.patches import check_edge
from scene_completion_training.masked_scene.scenes import FEATURES
from scene_completion_training.masked_scene.views import SceneViewSettings
from scene_completion_training.scene_stage import SceneStage
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet


@dataclass
class MaskedSceneConfiguration(TrainingConfiguration):
    """What masked scene modelling needs.

    Attributes:
        stage: Name of the stage.
        data: Recordings and kinds of scenes.
        views: How the two views of a scene differ.
        network: Size of the network; its inputs follow from the scenes.
        masking: "bottom_up" as in the source; "top_down" and "none" are its ablations, see `student_features`.
        ratio: Share of the patches that is hidden.
        patch: Voxels along the edge of a patch, a multiple of 2^(levels - 1).
        full_height: Patches are columns of all heights.
        loss_levels: Levels in the loss: all, or the last that the decoder makes, the finest.
        distance: Of the student's features to the teacher's.
        centred: What the teacher says of every voxel alike is no part of the target. Without it a network learns to
            say the same everywhere: the loss falls, and the spread of the features with it.
        points: Most hidden voxels of a step that are compared.
        momentum: Share of itself that the teacher keeps in the first step; it grows to 1.
        weight_decay: Of AdamW.
        least_spread: Spread of the teacher's features below which a level counts as collapsed.
        patience: Steps that a level may be collapsed before the training ends.
    """

    stage: str = "masked_scene"
    learning_rate: float = 1.5e-3
    data: SceneDataSettings = field(default_factory=SceneDataSettings)
    views: SceneViewSettings = field(default_factory=SceneViewSettings)
    network: HUNetSettings = field(default_factory=lambda: HUNetSettings(inputs=len(FEATURES)))
    masking: Masking = "bottom_up"
    ratio: float = 0.4
    patch: int = 8
    full_height: bool = False
    loss_levels: Literal["all", "last"] = "all"
    distance: Distance = "cosine"
    centred: bool = True
    points: int = 8192
    momentum: float = 0.996
    weight_decay: float = 0.05
    least_spread: float = 0.1
    patience: int = 50

    def completed(self) -> MaskedSceneConfiguration:
        """The network has as many inputs as the scenes have features."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, inputs=len(self.data.columns())))

    def check(self) -> None:
        """Refuses masks that hide nothing, views that are none, and numbers that cannot be."""
        super().check()
        self.views.check()
        check_edge(self.patch, self.network.levels)
        if self.masking != "none" and not 0.0 < self.ratio <= 1.0:
            raise ConfigurationError(
                f"{self.ratio}", where="ratio", cure='Take a share above 0, or masking: "none" to hide nothing'
            )
        if not (0.0 <= self.momentum <= 1.0 and self.points > 0 and self.patience > 0):
            raise ConfigurationError(
                f"momentum {self.momentum}, points {self.points}, patience {self.patience}",
                where="momentum, points, patience",
                cure="Take a momentum from 0 to 1, and positive numbers",
            )


class MaskedSceneStage(SceneStage):
    """Trains a student `VoxelHUNet`; its average, the teacher, is the `field` that a checkpoint is read back as.

    Args:
        settings: The configuration.
    """

    configuration_class = MaskedSceneConfiguration
    next_command = "scene-completion probe --method masked {checkpoint} --untrained {checkpoint} --train ... --test ..."
    settings: MaskedSceneConfiguration

    def __init__(self, settings: MaskedSceneConfiguration) -> None:
        super().__init__(settings)
        self.student = VoxelHUNet(settings.network)
        self.field = copy.deepcopy(self.student).requires_grad_(False)
        self.token = nn.Parameter(torch.zeros(settings.network.inputs))
        self.collapsed: Tensor
        self.register_buffer("collapsed", torch.zeros(settings.network.levels, dtype=torch.int64))
        self._data: SceneData | None = None
        self._ended: float | None = None

    def make_data(self) -> SceneData:
        """Views of scenes."""
        settings = self.settings
        mask = MaskSettings(settings.patch, settings.ratio, settings.full_height)
        self._data = SceneData(
            settings.data,
            settings.views,
            None if settings.masking == "none" else mask,
            step=2 ** (settings.network.levels - 1),
            steps=settings.steps,
            seed=settings.seed,
        )
        return self._data

    def weights(self) -> dict[str, float]:
        """Every level weighs the same."""
        return {f"level_{level}": 1.0 for level in range(self.settings.network.levels)}

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Distance of the student's features of hidden voxels to the teacher's, a level each."""
        settings, levels = self.settings, self.settings.network.levels
        assert self._data is not None
        shape = self._data.shape
        hidden = SceneView(batch["student_index"], batch["student_features"], shape, levels)
        whole = SceneView(batch["teacher_index"], batch["teacher_features"], shape, levels)
        rows = batch["masked"].nonzero()[:, 0]
        chosen = rows[torch.randperm(len(rows), generator=generator)[: settings.points].to(rows.device)]
        made = student_features(self.student, hidden, batch["masked"], settings.masking, self.token)
        with torch.no_grad():
            taught = self.field(whole.features, whole.pyramid)
            targets = sampled(taught, whole, batch["teacher_index"][chosen])
        self._watch(targets)
        answers = sampled(made, hidden, batch["student_index"][chosen])
        compared = range(1 if settings.loss_levels == "last" else levels)
        return {
            f"level_{level}": distance(answers[level], targets[level], settings.distance, centred=settings.centred)
            for level in compared
        }

    def _watch(self, targets: list[Tensor]) -> None:
        """Logs the spread of the teacher's features.

        Raises:
            TrainingError: That of a level has been too small for too long.
        """
        spreads = [spread(target) for target in targets]
        self.log_dict({f"spread/level_{level}": value for level, value in enumerate(spreads)})
        low = torch.tensor([value < self.settings.least_spread for value in spreads], device=self.collapsed.device)
        self.collapsed.copy_((self.collapsed + 1) * low)
        if int(self.collapsed.max()) >= self.settings.patience:
            level = int(self.collapsed.argmax())
            raise TrainingError(
                f"the teacher says nearly the same of every voxel: the spread of level {level} has been below "
                f"{self.settings.least_spread:g} for {self.settings.patience} steps, and is {spreads[level]:.3f}",
                where=f"step {self.global_step}",
                cure="Start again with a lower learning_rate, a higher momentum, or more scenes",
            )

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One step; it also logs how many voxels a second the training sees."""
        now = time.perf_counter()
        if self._ended is not None:
            self.log("voxels_per_second", len(batch["masked"]) / (now - self._ended), prog_bar=True)
        self._ended = now
        return super().training_step(batch, batch_index)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The student's step, then the teacher's, before a checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        settings = self.settings
        update_teacher(self.field, self.student, momentum(self.global_step, settings.steps, settings.momentum))

    def configure_optimizers(self) -> Any:
        """The student and its token learn; the teacher follows."""
        return self.warmed_adamw(value for value in self.parameters() if value.requires_grad)
