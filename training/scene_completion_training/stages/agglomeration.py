"""Stage `agglomeration`: several 2D foundation models lifted into one field under learned uncertainty (CUA-O3D)."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_training import losses
from scene_completion_training.configuration import Configuration, TrainingConfiguration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.field_stage import FeatureStage
from scene_completion_training.foundation.backbone import FeatureLifter, LiftedFeatures, TokenMaps
from scene_completion_training.foundation.feature_store import mirrored_targets
from scene_completion_training.networks.agglomerated_field import AgglomeratedField, AgglomeratedPoints, HeadKind
from scene_completion_training.networks.feature_field import FeatureObservation, TargetRarity
from scene_completion_training.points.data import LiftingSettings, PixelTeacher, PointData, PointDataSettings
from scene_completion_training.randomness import samples_of
from scene_completion_training.stage import Batch, Stage

FITTED_SAMPLES = 64  # samples whose tokens give a teacher's mean and spread
TOKENS_A_SAMPLE = 512
# Share of the points on the surface that the density shows in its own image. The others are what stereo or the rendered
# depth shows in all views, seen in the image or hidden there.
OWN = 0.5
DRAWN_FOR_ONE = 3  # pixels drawn for a point: many show nothing whose depth is known
# How far points on the own surface are moved along their rays, as a share of their depth, one standard deviation. The
# voxels of a robot lie where its student puts them.
DEPTH_NOISE = 0.05
# Points lie at most this many lengths of the volume away: what is farther, the sky most of all, is no voxel.
FARTHEST = 1.2


@dataclass
class StoredTeacher(losses.TeacherSpec):
    """A foundation model that the field learns from, by features on disk."""

    targets: str = ""  # folder of its precomputed features, see `scene-completion features images`
    # Take from each of its features the mean of all of them ("targets"), or that of the classes of `text_bank`
    # ("texts"). What all have in common hides their differences. Features that are queried by words stay without it:
    # as vectors from the centre, those of pure things are nearer to their names than mixtures.
    centre: Literal["none", "targets", "texts"] = "none"
    text_bank: str = ""  # text bank whose classes give the centre
    # Power of the weight that a rare kind of target has, see `TargetRarity`; 0 weighs all alike, as CUA-O3D.
    rarity: float = 0.0


@dataclass
class AgglomerationSettings:
    """How the teachers are learned together."""

    teachers: list[StoredTeacher] = field(default_factory=list)
    points: int = 4096  # points of an image that are compared
    regulariser: losses.Regulariser = "log1p_square"  # of learned weights; "none" weighs all alike


@dataclass
class AgglomerationConfiguration(Configuration):
    """What the agglomeration needs."""

    stage: str = "agglomeration"
    agglomeration: AgglomerationSettings = field(default_factory=AgglomerationSettings)

    def check(self) -> None:
        """Refuses a training without teachers, and settings that contradict each other."""
        super().check()
        self.check_start()
        settings = self.agglomeration
        losses.check_teachers(settings.teachers, "agglomeration.teachers")
        if not all(0.0 <= teacher.rarity <= 1.0 for teacher in settings.teachers):
            what = f"{[teacher.rarity for teacher in settings.teachers]}"
            raise ConfigurationError(what, where="agglomeration.teachers: rarity", cure="Take powers from 0 to 1")
        if settings.points < 1:
            what, cure = f"points={settings.points}", "Take one point or more"
            raise ConfigurationError(what, where="agglomeration", cure=cure)


class AgglomerationStage(FeatureStage):
    """Trains an `AgglomeratedField` on a density that stays as it is, from batches of `ViewSamples` with targets.

    Points of surfaces get the mean features of all views that see them (`FeatureLifter`). The field learns to predict
    them from its one image. Raises ConfigurationError: targets that do not fit together, or not their text bank.
    """

    configuration_class = AgglomerationConfiguration
    field_class = AgglomeratedField
    next_command = "scene-completion features classes ... --model {checkpoint} --student BUNDLE"
    field: AgglomeratedField
    settings: AgglomerationConfiguration

    def __init__(self, settings: AgglomerationConfiguration) -> None:
        super().__init__(settings)
        requested = settings.agglomeration
        where = "agglomeration.teachers: "
        self.stores = {spec.name: mirrored_targets(spec.targets, where + spec.name) for spec in requested.teachers}
        density = self.make_density()
        dims = {name: store.dim for name, store in self.stores.items()}
        self.field = AgglomeratedField(density, dims)
        rarities = {spec.name: TargetRarity(dims[spec.name], spec.rarity) for spec in requested.teachers}
        self.rarity = nn.ModuleDict(rarities)
        self.uncertainty = losses.UncertaintyWeights(list(dims), requested.regulariser)
        self.lifter = FeatureLifter(self.camera, self.viewpoint.volume.voxel_size)
        self.start_learning()

    def data_needs(self) -> DataNeeds:
        """Features of its views, of every teacher."""
        return DataNeeds(targets={f"/{name}": store for name, store in self.stores.items()})

    def remembered(self) -> dict[str, Any]:
        """What each teacher's targets are: a training goes on with those that it began with."""
        teachers = {}
        for name, store in self.stores.items():
            digest, model = hashlib.sha256(repr(store.manifest.facts()).encode()).hexdigest(), store.manifest.model
            text = {"text_encoder": model.text_encoder, "text_encoder_sha256": model.text_encoder_sha256}
            teachers[name] = {"targets_sha256": digest, "model": model.name, **text}
        return {"teachers": teachers}

    def start(self, data: SequencesData) -> None:
        """First takes mean and spread of each teacher's features."""
        data.setup("fit")
        samples = data.samples()
        self.fit_targets(samples[index] for index in range(min(FITTED_SAMPLES, len(samples))))
        super().start(data)

    def fit_targets(self, samples: Iterable[Mapping[str, Tensor]]) -> None:
        """Takes centres and how rare kinds are from samples; a ConfigurationError where features are not finite."""
        drawn: dict[str, list[Tensor]] = {name: [] for name in self.stores}
        generator = torch.Generator().manual_seed(self.settings.seed)
        for sample in samples:
            for name, tokens in drawn.items():
                found = sample[f"features/{name}"].float().movedim(1, -1).flatten(0, -2)
                tokens.append(found[torch.randint(len(found), (TOKENS_A_SAMPLE,), generator=generator)])
        for spec in self.settings.agglomeration.teachers:
            every = torch.cat(drawn[spec.name])
            if not torch.isfinite(every).all():
                what = "features are not finite"
                raise ConfigurationError(what, where=spec.targets, cure="Make the targets once more")
            centre = self.field.centres[spec.name].data
            if spec.centre != "none":
                centre.copy_(every.mean(dim=0) if spec.centre == "targets" else text_centre(spec, every.shape[1]))
            rarity = self.rarity[spec.name]
            assert isinstance(rarity, TargetRarity)
            rarity.fit(every - centre, self.settings.seed)

    def weights(self) -> dict[str, float]:
        """See `term_weights`."""
        return losses.term_weights(self.settings.agglomeration.teachers)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One step; the uncertainties are curves of their own."""
        self.log_dict({f"uncertainty/{name}": p for name, p in self.uncertainty.uncertainties.items()})
        return super().training_step(batch, batch_index)

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """How far the features of points are from those of the teachers."""
        seen: FeatureObservation = self.observe(batch)
        points, targets, known = self._compared(batch, seen, generator)
        features = seen.features(points).flatten(0, 1)  # [B N, channels]
        teachers = self.settings.agglomeration.teachers
        predicted = {spec.name: self.field.original(spec.name, features) for spec in teachers}
        targets = {spec.name: targets[spec.name] - self.field.centres[spec.name] for spec in teachers}
        weights = {spec.name: known[spec.name] * self.rarity[spec.name](targets[spec.name]) for spec in teachers}
        return losses.agglomeration_terms(teachers, self.uncertainty, predicted, targets, weights)

    @torch.no_grad()
    def _compared(
        self, batch: Batch, seen: FeatureObservation, generator: torch.Generator
    ) -> tuple[Tensor, Batch, Batch]:
        """Points [B, N, 3] (encoder frame, metres), and of each teacher targets [B N, D] and where they are known."""
        points, counted = [], []
        lifted: list[dict[str, LiftedFeatures]] = []
        requested = self.settings.agglomeration
        own = round(requested.points * OWN)
        for number, its in enumerate(samples_of(generator, len(batch["image"]))):
            poses, hints, masks = (batch[name][number] for name in ("encoder_from_view", "hints", "masks"))
            maps = {
                name: TokenMaps(batch[f"features/{name}"][number], batch[f"feature_offsets/{name}"][number], store.cell)
                for name, store in self.stores.items()
            }
            # View 0 is the image of the field: a point on its surface takes features from it alone, at any depth.
            shown = self._surface_points(seen.depth_code[number], own, its)
            others, valid = self._view_points(hints, masks, poses, requested.points - own, its)
            lifted += [self.lifter(shown, maps, poses[:1], None, masks[:1])]
            lifted += [self.lifter(others, maps, poses, hints, masks)]
            points.append(torch.cat([shown, others]))
            counted.append(torch.cat([valid.new_ones(own), valid]))
        found = torch.stack(points)
        counts = torch.stack(counted) & seen.in_view(found) & (found[..., 2] <= FARTHEST * self.viewpoint.volume.ahead)
        targets = {name: torch.cat([part[name].mean for part in lifted]) for name in self.stores}
        known = {name: counts.flatten() & (torch.cat([of[name].views for of in lifted]) > 0) for name in self.stores}
        return found, targets, known

    def _surface_points(self, code: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Points [M, 3] near the surface that inverse depth codes [h, w] of pixels show, moved along their rays."""
        height, width = code.shape
        camera = self.camera
        drawn = torch.rand(count, 2, generator=generator).to(code.device)
        column, row = (drawn * drawn.new_tensor([width, height])).long().unbind(dim=-1)
        inverse = self.point_code.inverse_depth(code[row, column])
        inverse = losses.positive_inverse_depth(inverse).clamp_min(1.0 / self.far)
        noise = DEPTH_NOISE * torch.randn(count, generator=generator).to(code.device)
        depth = noise.exp() / inverse
        x = ((column + 0.5) * camera.width / width - 0.5 - camera.cx) / camera.fx
        y = ((row + 0.5) * camera.height / height - 0.5 - camera.cy) / camera.fy
        return torch.stack([x, y, torch.ones_like(x)], dim=-1) * depth[:, None]

    def _view_points(
        self, surface: Tensor, shown: Tensor, poses: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Points [M, 3] of the surfaces that views [V, H, W] show, and which of them are any, bool [M]."""
        camera = self.camera
        drawn = torch.randint(surface.numel(), (DRAWN_FOR_ONE * count,), generator=generator).to(surface.device)
        known = (surface.flatten() > 0.0) & shown.flatten()
        drawn = torch.cat([drawn[known[drawn]], drawn[~known[drawn]]])[:count]
        _, height, width = surface.shape
        view, row, column = drawn // (height * width), drawn // width % height, drawn % width
        x, y = (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy
        seen = torch.stack([x, y, torch.ones_like(x)], dim=-1) * surface.flatten()[drawn, None]
        rotation, place = poses[view, :3, :3], poses[view, :3, 3]
        return (rotation @ seen[..., None])[..., 0] + place, known[drawn]


def text_centre(spec: StoredTeacher, dim: int) -> Tensor:
    """Mean [D] of the classes of a teacher's text bank.

    Raises VocabularyError where there is no such bank, or it has no classes; ConfigurationError where its texts lie in
    another space.
    """
    vocabulary = TextBank.load(spec.text_bank).vocabulary()
    rows = vocabulary.rows[vocabulary.group >= 0]
    if rows.shape[1] != dim:
        what = f"{rows.shape[1]} channels, the features of {spec.name} have {dim}"
        raise ConfigurationError(what, where=spec.text_bank, cure="Make the bank with the teacher's text encoder")
    return torch.from_numpy(rows.mean(axis=0))


# Stage `point_agglomeration`: several 2D foundation models in one network of points, as CUA-O3D was published.


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
    only: list[str] = field(default_factory=list)  # names of the teachers that are learned; all by default
    heads: HeadKind = "linear"  # "linear" as CUA-O3D released them, or "mlp" as in its paper
    # Of the weights of teachers: "log1p_square" as released, "log1p" as in the paper, "log"; "none" weighs all alike.
    regulariser: losses.Regulariser = "log1p_square"
    # Learning rate of the uncertainties, 0 for that of the network. Adam moves log p by no more than the sum of the
    # rates of all steps: few steps would end before p has come to its optimum.
    uncertainty_rate: float = 0.0
    demean: bool = True  # false: teachers with loss "demeaned_cosine" are compared by "cosine"

    def completed(self) -> "PointAgglomerationConfiguration":
        """With the teachers that are learned alone; a `ConfigurationError` for names that no teacher has."""
        names = [teacher.name for teacher in self.teachers]
        if unknown := [name for name in self.only if name not in names]:
            cure = f"There are {', '.join(names) or 'none'}"
            raise ConfigurationError(f"no teacher {', '.join(unknown)}", where="only", cure=cure)
        chosen = [teacher for teacher in self.teachers if not self.only or teacher.name in self.only]
        plain = [replace(one, loss="cosine") if one.loss == "demeaned_cosine" else one for one in chosen]
        return replace(self, teachers=chosen if self.demean else plain)

    def check(self) -> None:
        """Refuses a training without teachers, and numbers that cannot be."""
        super().check()
        losses.check_teachers(self.teachers, "teachers")
        self.lifting.check("lifting")
        if not all(teacher.dim > 0 and teacher.cell > 0 for teacher in self.teachers):
            what = f"{[(teacher.dim, teacher.cell) for teacher in self.teachers]}"
            raise ConfigurationError(what, where="teachers: dim, cell", cure="Give positive numbers")
        if not self.data.voxel_size > 0.0:
            what, cure = f"{self.data.voxel_size} m", "Give a positive edge"
            raise ConfigurationError(what, where="data.voxel_size", cure=cure)


class PointAgglomerationStage(Stage):
    """Trains `AgglomeratedPoints` on samples of `PointSamples`, by Adam with a polynomial fall of its rate."""

    configuration_class = PointAgglomerationConfiguration
    field_class = AgglomeratedPoints
    next_command = "scene-completion evaluate points --checkpoint {checkpoint} --data FOLDER --text-encoder MODEL ..."
    settings: PointAgglomerationConfiguration

    def __init__(self, settings: PointAgglomerationConfiguration) -> None:
        super().__init__(settings)
        self.field = AgglomeratedPoints({teacher.name: teacher.dim for teacher in settings.teachers}, settings.heads)
        self.uncertainty = losses.UncertaintyWeights(
            [teacher.name for teacher in settings.teachers], settings.regulariser
        )

    def make_data(self) -> PointData:
        """Scenes with lifted features."""
        settings = self.settings
        return PointData(settings.data, settings.teachers, settings.lifting, steps=settings.steps, seed=settings.seed)

    def weights(self) -> dict[str, float]:
        """See `term_weights`."""
        return losses.term_weights(self.settings.teachers)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One step; the uncertainties are curves of their own."""
        self.log_dict({f"uncertainty/{name}": p for name, p in self.uncertainty.uncertainties.items()})
        return super().training_step(batch, batch_index)

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """How far the features of voxels are from those of the teachers at a point in each."""
        features = self.field(batch["voxel_index"], batch["inputs"])[batch["known"]]
        names = [teacher.name for teacher in self.settings.teachers]
        targets = {name: batch[f"target/{name}"].float() for name in names}
        shared = torch.stack([target.any(dim=1) for target in targets.values()]).all(dim=0)
        predicted = {name: self.field.heads.of(name, features) for name in names}
        weights = dict.fromkeys(names, shared)
        return losses.agglomeration_terms(self.settings.teachers, self.uncertainty, predicted, targets, weights)

    def configure_optimizers(self) -> Any:
        """Adam on the network and the uncertainties."""
        settings = self.settings
        rate = settings.uncertainty_rate or settings.learning_rate
        groups: list[dict[str, Any]] = [{"params": self.field.parameters()}]
        groups.append({"params": self.uncertainty.parameters(), "lr": rate})
        return self.scheduled(torch.optim.Adam(groups, settings.learning_rate), self.polynomial)

    def polynomial(self, step: int) -> float:
        """Factor on the learning rate: linear over the warm-up, times (1 - step / steps)^0.9."""
        settings = self.settings
        left = max(0.0, 1.0 - step / settings.steps)
        return float(min(1.0, (step + 1) / max(1, settings.warmup)) * left**POWER)
