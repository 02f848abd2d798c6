"""Stage `masked_scene`: what hidden parts of a scene of points are like, by the visible ones (MSM)."""

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError, TrainingError
from scene_completion_training import masked_scenes
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.sparse.voxel_set import sample_levels
from scene_completion_training.stage import Batch, Stage

POINTS = 8192  # most hidden points of a step that are compared
BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.05  # of AdamW, as in the source (MSM, T14)
# Spread of the teacher's features below which a level counts as collapsed, and for how many steps it may be. Most of a
# feature may be the same everywhere, since targets are centred: 0.04 in trainings whose features probes read well.
LEAST_SPREAD, PATIENCE = 0.01, 50


@dataclass
class MaskedSceneConfiguration(TrainingConfiguration):
    """What masked scene modelling needs."""

    stage: str = "masked_scene"
    learning_rate: float = 1.5e-3
    data: masked_scenes.SceneDataSettings = field(default_factory=masked_scenes.SceneDataSettings)
    views: masked_scenes.SceneViewSettings = field(default_factory=masked_scenes.SceneViewSettings)
    network: HUNetSettings = field(default_factory=lambda: HUNetSettings(inputs=len(masked_scenes.POINT_FEATURES)))
    ratio: float = 0.4  # share of the patches that is hidden; 0 without masking
    # Where tokens stand for what is hidden: "bottom_up" in each level of the decoder (MSM), so that the encoder sees
    # visible voxels alone; "top_down" in the finest level of the encoder; "none" hides nothing.
    masking: Literal["bottom_up", "top_down", "none"] = "bottom_up"
    # Views that the student sees, each against the teacher's features of the other: "both", or the first as "one".
    directions: Literal["both", "one"] = "both"
    loss_on: Literal["all", "last"] = "all"  # levels with a loss: all of the decoder, or its last, the finest
    patch: int = 8  # voxels along the edge of a patch, a multiple of 2^(levels - 1)
    momentum: float = 0.996  # share of itself that the teacher keeps in the first step; it grows to 1
    # Against features that lie along few directions; what the source does is not known. An MLP on each level between
    # the student's features and the teacher's, which is left behind, and the weight of `masked_scenes.correlation`.
    predictor: bool = False
    decorrelation: float = 0.0

    def check(self) -> None:
        """Refuses masks that hide nothing, views that are none, and numbers that cannot be."""
        super().check()
        self.views.check()
        levels, coarsest = self.network.levels, 2 ** (self.network.levels - 1)
        if self.patch < 1 or self.patch % coarsest:  # they would hide nothing at the coarsest level
            shared = f"patches of {self.patch} voxels share the coarsest of {levels} levels with their neighbours"
            what = f"{shared}, which tell what is in them"
            raise ConfigurationError(what, where="patch", cure=f"Take a multiple of {coarsest}")
        if self.network.inputs != len(masked_scenes.POINT_FEATURES):
            what = f"{self.network.inputs} inputs, where voxels have {', '.join(masked_scenes.POINT_FEATURES)}"
            cure = f"Set it to {len(masked_scenes.POINT_FEATURES)}"
            raise ConfigurationError(what, where="network.inputs", cure=cure)
        if (self.masking == "none") != (self.ratio == 0.0):
            what = f"masking {self.masking} of a share of {self.ratio:g}"
            raise ConfigurationError(what, where="masking, ratio", cure="Take none and 0 together, or neither")
        if not (0.0 <= self.ratio <= 1.0 and 0.0 <= self.momentum <= 1.0 and self.decorrelation >= 0.0):
            what = f"ratio {self.ratio}, momentum {self.momentum}, decorrelation {self.decorrelation}"
            cure = "Take a share and a momentum from 0 to 1, and no weight below 0"
            raise ConfigurationError(what, where="ratio, momentum, decorrelation", cure=cure)


class MaskedSceneStage(Stage):
    """Trains a student `VoxelHUNet`; its average, the teacher, is the `field` that a checkpoint is read back as."""

    configuration_class = MaskedSceneConfiguration
    field_class = VoxelHUNet
    next_command = "scene-completion evaluate points --checkpoint {checkpoint} --probe-on DIR --data DIR ..."
    settings: MaskedSceneConfiguration

    def __init__(self, settings: MaskedSceneConfiguration) -> None:
        super().__init__(settings)
        self.student = VoxelHUNet(settings.network)
        self.field = copy.deepcopy(self.student).requires_grad_(False)
        self.predictors = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
            if settings.predictor
            else nn.Identity()
            for dim in self.student.dims
        )
        self.collapsed: Tensor = nn.Buffer(torch.zeros(settings.network.levels, dtype=torch.int64))

    def make_data(self) -> masked_scenes.SceneData:
        """Views of scenes."""
        settings = self.settings
        mask = masked_scenes.MaskSettings(settings.patch, settings.ratio, settings.directions == "both")
        return masked_scenes.SceneData(settings.data, settings.views, mask, steps=settings.steps, seed=settings.seed)

    def remembered(self) -> dict[str, Any]:
        """What the features are."""
        return {"columns": list(masked_scenes.POINT_FEATURES)}

    def weights(self) -> dict[str, float]:
        """Every level weighs the same, or the finest alone counts."""
        every = self.settings.loss_on == "all"
        levels = {f"level_{level}": float(every or not level) for level in range(self.settings.network.levels)}
        return levels | {"correlation": self.settings.decorrelation}

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Distance of the student's features at hidden points to the teacher's, a level each."""
        settings, levels = self.settings, self.settings.network.levels
        index, features, masked = batch["voxel_index"], batch["features"], batch["masked"]
        places, others = batch["student_points"], batch["teacher_points"]
        chosen = torch.randperm(len(places), generator=generator)[:POINTS].to(places.device)
        if settings.directions == "both":
            hidden = whole = masked_scenes.SceneView(index, features, levels)
        else:
            second = index[:, 0] % 2 == 1
            hidden = masked_scenes.SceneView(index[~second], features[~second], levels)
            whole, masked = masked_scenes.SceneView(index[second], features[second], levels), masked[~second]
        bottom_up = settings.masking == "bottom_up"
        made = masked_scenes.student_features(self.student, hidden, masked, bottom_up=bottom_up)
        with torch.no_grad():
            targets = sample_levels(self.field(whole.features, whole.pyramid), whole.pyramid, others[chosen])[0]
        self._watch(targets)
        answers = sample_levels(made, hidden.pyramid, places[chosen])[0]
        terms = {}
        for level, (answer, predictor) in enumerate(zip(answers, self.predictors, strict=True)):
            predicted = predictor(masked_scenes.standardised(answer))
            terms[f"level_{level}"] = masked_scenes.distance(predicted, targets[level])
        if settings.decorrelation:
            counted = [answer for answer, weight in zip(answers, self.weights().values(), strict=False) if weight]
            terms["correlation"] = torch.stack([masked_scenes.correlation(answer) for answer in counted]).sum()
        return terms

    def _watch(self, targets: list[Tensor]) -> None:
        """Logs how the teacher's features differ; a TrainingError if a level's spread has been too small for too long.

        Their spread; now and then also their rank, and the loss of a student that says their mean of every place.
        """
        spreads = [masked_scenes.spread(target) for target in targets]
        self.log_dict({f"spread/level_{level}": value for level, value in enumerate(spreads)})
        if (self.global_step + 1) % self.settings.log_every == 0:
            for level, target in enumerate(targets):
                mean = masked_scenes.standardised(target).mean(dim=0).expand_as(target)
                self.log(f"rank/level_{level}", masked_scenes.effective_rank(target))
                self.log(f"loss_of_mean/level_{level}", masked_scenes.distance(mean, target))
        low = torch.tensor([value < LEAST_SPREAD for value in spreads], device=self.collapsed.device)
        self.collapsed.copy_((self.collapsed + 1) * low)
        if int(self.collapsed.max()) >= PATIENCE:
            level = int(self.collapsed.argmax())
            raise TrainingError(
                f"the teacher gives nearly the same feature to every voxel: the spread of level {level} has been below "
                f"{LEAST_SPREAD:g} for {PATIENCE} steps, and is {spreads[level]:.3f}",
                where=f"step {self.global_step}",
                cure="Start again with a lower learning_rate, a higher momentum, or more scenes",
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The student's step, then the teacher's, before a checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        settings = self.settings
        kept = masked_scenes.momentum(self.global_step, settings.steps, settings.momentum)
        masked_scenes.update_teacher(self.field, self.student, kept)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine for the student; the teacher follows it."""
        rate = self.settings.learning_rate
        optimiser = torch.optim.AdamW(
            [*self.student.parameters(), *self.predictors.parameters()], rate, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        return self.scheduled(optimiser, self.warmed_cosine)
