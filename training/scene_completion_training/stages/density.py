"""The stages of MVBTS and KDBTS: single-view and multi-view density fields, and the student of a teacher."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.voxels.occupancy import density_of_logit
from scene_completion_training.checkpoints import Checkpoint, TrainedWeights
from scene_completion_training.configuration import Configuration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import MOST_ENCODER_VIEWS
from scene_completion_training.field_stage import FieldStage, SingleImageStage, encoded_views, half_size
from scene_completion_training.losses import density_distillation, logit_distillation, occupancy_distillation
from scene_completion_training.networks import density_field
from scene_completion_training.networks.density_field import DensityField, MultiViewField
from scene_completion_training.rendering import Rendered
from scene_completion_training.stage import Batch


class SingleViewStage(SingleImageStage):
    """Trains a `DensityField` from batches of `ViewSamples`."""

    field: DensityField

    def __init__(self, settings: Configuration) -> None:
        super().__init__(settings)
        self.field = self.make_density(depth_channel=bool(settings.losses.dense_depth))

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Depth of every pixel, rendered patches of loss views, voxel centres."""
        seen = self.observe(batch)
        terms = self.dense_depth(seen.depth_code, batch["hint"])
        if not self.depth_only:
            terms |= self.volume_terms(seen, self.rendered(seen, batch, generator), batch, generator)
        return terms


# Stage `teacher`: the multi-view density field (MVBTS), whose encoder views see what hides from one of them.


@dataclass
class SeveralViewsConfiguration(Configuration):
    """What stages need that encode several views of a drive: the multi-view teacher, and what learns from it."""

    # Images that are encoded: the sample's own, and so many less one from further along (3 in MVBTS).
    encoder_views: int = 3

    def check(self) -> None:
        """Refuses more views than samples have."""
        super().check()
        if not 1 <= self.encoder_views <= MOST_ENCODER_VIEWS:
            cure = f"Encode 1 to {MOST_ENCODER_VIEWS}: the sample's own view, and others from further along"
            raise ConfigurationError(f"{self.encoder_views} of them", where="encoder_views", cure=cure)


@dataclass
class TeacherConfiguration(SeveralViewsConfiguration):
    """What the multi-view teacher needs."""

    stage: str = "teacher"
    # Share of the points that do without a view, drawn for each view but the first (0.5 in MVBTS).
    view_dropout: float = density_field.VIEW_DROPOUT
    # What is averaged over the views: features of a point as in MVBTS, or its densities before softplus.
    fusion: Literal["features", "densities"] = "features"

    def check(self) -> None:
        """Refuses shares that are none, or that leave no view but the first."""
        super().check()
        if not 0.0 <= self.view_dropout < 1.0:
            cure = "Take a share from 0 to below 1"
            raise ConfigurationError(f"{self.view_dropout}", where="view_dropout", cure=cure)


class TeacherStage(FieldStage):
    """Trains a `MultiViewField` from batches of `ViewSamples` with several encoder views."""

    configuration_class = TeacherConfiguration
    field_class = MultiViewField
    next_command = "scene-completion train --config training/configs/student.yaml teacher={checkpoint}"
    field: MultiViewField
    settings: TeacherConfiguration

    def __init__(self, settings: TeacherConfiguration) -> None:
        super().__init__(settings)
        self.field = MultiViewField(
            self.camera,
            self.viewpoint.volume.point_code,
            encoder=self.make_encoder(),
            hidden=settings.hidden,
            depth_channel=bool(settings.losses.dense_depth),
            densities=settings.fusion == "densities",
            dropout=settings.view_dropout,
        )

    def take(self, weights: TrainedWeights) -> None:
        """Takes a teacher's weights, or the encoder alone of a field that has no views to fuse."""
        if any(name.startswith("fusion.") for name in weights.field):
            super().take(weights)
        else:
            self.encoder.load_state_dict(density_field.part_of(weights.field, "encoder."))

    def observe(self, batch: Batch, generator: torch.Generator | None = None) -> density_field.MultiViewObservation:
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

    def head_layers(self) -> list[nn.Module]:
        """What fuses the views."""
        return [self.field.fusion]


# Stage `student`: a single-view density field learns from the multi-view teacher (KDBTS).


@dataclass
class DistillationSettings:
    """What the student learns from the teacher."""

    weight: float = 0.01  # weight of the loss (0.01 in KDBTS)
    # What is compared: clipped densities as in KDBTS, logits of densities, or the occupancy probability. A teacher has
    # the latter if it was trained with `losses.occupancy`.
    space: Literal["density", "logit", "occupancy"] = "density"
    # Compare along the rendered rays too, not only at voxels and in the view at large. It costs as much as the rest,
    # and holds the student to the teacher's surfaces, which are softer than its own.
    along_rays: bool = True
    in_volume: bool = True  # compare at voxels and in the view at large. In KDBTS it is the rays alone
    freeze_encoder: bool = False  # the encoder stays that of the teacher, and only the student's head learns


@dataclass
class StudentConfiguration(SeveralViewsConfiguration):
    """What the distilled student needs; its encoder views are those that a multi-view teacher encodes."""

    stage: str = "student"
    teacher: str = ""  # checkpoint of the teacher, of stage `teacher`
    distillation: DistillationSettings = field(default_factory=DistillationSettings)

    def looks_through(self) -> str:
        """A student sees what its teacher sees."""
        return self.teacher

    def check(self) -> None:
        """Refuses a student without a teacher, one that would learn depth before it starts, or is compared nowhere."""
        super().check()
        if self.depth_only_steps:
            what = f"{self.depth_only_steps} steps of depth alone, but a student starts with its teacher's depth"
            raise ConfigurationError(what, where="depth_only_steps", cure="Set it to 0")
        if not (self.distillation.along_rays or self.distillation.in_volume):
            what = "nowhere to compare with the teacher"
            raise ConfigurationError(what, where="distillation", cure="Set along_rays or in_volume")
        if not self.teacher:
            cure = "Give the checkpoint of a training with stage `teacher`"
            raise ConfigurationError("no teacher named", where="teacher", cure=cure)


@dataclass(frozen=True, eq=False)
class Teacher:
    """What a student learns from. No module of the stage: it never learns, and no checkpoint needs it."""

    field: MultiViewField
    link: density_field.OccupancyLink | None  # from its logit to its occupancy probability, where it has one
    half_resolution: bool  # it was trained on images of half the size, and keeps seeing such
    has_depth: bool  # channel 0 of its encoder is a depth

    def __deepcopy__(self, memo: object) -> "Teacher":
        return self  # an average of the student's weights needs no teacher of its own

    @staticmethod
    def read(settings: StudentConfiguration) -> "Teacher":
        """The teacher that a configuration names; see `StudentStage` for errors."""
        stored = Checkpoint.read(Path(settings.teacher))
        field = stored.field_of(MultiViewField)
        if stored.trunk != settings.encoder:
            what = f"the student's is {settings.encoder}, the teacher's {stored.trunk}"
            cure = "The student starts from its teacher's encoder: name the same one"
            raise ConfigurationError(what, where="encoder", cure=cure)
        has_depth = bool(stored.configuration.get("losses", {}).get("dense_depth", 1.0))
        return Teacher(field, stored.occupancy_link(), stored.half_resolution, has_depth)


class StudentStage(SingleImageStage):
    """Distils a frozen field of several views into the `DensityField` to deploy.

    The teacher keeps an encoder of its own: in the published code it shares the student's, and its targets drift with
    the student's gradient. With `freeze_encoder` the two are the same weights, of which only the student's head learns.
    Raises ConfigurationError: occupancy is to be distilled, and the teacher has none; or its encoder is another one;
    BundleError where the teacher's checkpoint holds none.
    """

    configuration_class = StudentConfiguration
    field: DensityField
    settings: StudentConfiguration

    def __init__(self, settings: StudentConfiguration) -> None:
        teacher = Teacher.read(settings)
        super().__init__(settings)
        if settings.distillation.space == "occupancy" and teacher.link is None:
            cure = "Train it with `losses.occupancy`, or distil its density"
            raise ConfigurationError("the teacher has learned no occupancy", where="distillation.space", cure=cure)
        self._teacher = teacher
        teacher.field.eval().requires_grad_(False)
        if teacher.link is not None:
            self.link.load_state_dict(teacher.link.requires_grad_(False).state_dict())
        encoder = copy.deepcopy(teacher.field.encoder).requires_grad_(True)
        has_depth = teacher.has_depth if settings.distillation.freeze_encoder else bool(settings.losses.dense_depth)
        self.field = self.make_density(depth_channel=has_depth, encoder=encoder)
        self.start_learning()

    def remembered(self) -> dict[str, Any]:
        """Which teacher it was."""
        return {"teacher_sha256": hashlib.sha256(Path(self.settings.teacher).read_bytes()).hexdigest()}

    @classmethod
    def learns_link(cls, configuration: Mapping[str, Any]) -> bool:
        """It does from a teacher's occupancy, too."""
        return super().learns_link(configuration) or configuration["distillation"]["space"] == "occupancy"

    def start_learning(self) -> None:
        """The teacher's encoder may stay as it is."""
        super().start_learning()
        if self.settings.distillation.freeze_encoder:
            self.encoder.requires_grad_(False)
            self.encoder.trunk.train()

    def first_depth(self, data: SequencesData) -> None:
        """It has its teacher's."""

    @property
    def teacher(self) -> MultiViewField:
        """The frozen teacher."""
        return self._teacher.field.to(self.device)

    @property
    def renders(self) -> bool:
        """Whether any loss needs rendered patches, or the teacher is compared along them."""
        return super().renders or self.settings.distillation.along_rays

    def weights(self) -> dict[str, float]:
        """Weight of each loss."""
        return {**super().weights(), "distillation": self.settings.distillation.weight}

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """What `single_view` has, and agreement with the teacher wherever a ray or a voxel was queried."""
        seen = self.observe(batch)
        terms = {} if self.settings.distillation.freeze_encoder else self.dense_depth(seen.depth_code, batch["hint"])
        rendered = self.rendered(seen, batch, generator)
        terms |= self.volume_terms(seen, rendered, batch, generator)
        return terms | {"distillation": self._distilled(seen, rendered, batch, generator)}

    def _distilled(
        self, seen: density_field.SingleViewObservation, rendered: Rendered, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        """At the voxels, at points anywhere in the view, and along the rays."""
        settings = self.settings.distillation
        compared: list[tuple[Tensor, Tensor, Tensor]] = []  # points, logits, whether they count
        if settings.in_volume:
            points = torch.cat([batch["points"], self.volume(batch, generator)], dim=1)
            counts = seen.in_view(points)
            known = batch["weight"] > 0  # frames without evidence have no voxels, only room for them
            counts[:, : known.shape[1]] &= known
            compared.append((points, seen.density_logit(points), counts))
        if rendered is not None and settings.along_rays:
            compared.append((rendered.points, rendered.logit.flatten(1), seen.in_view(rendered.points)))
        points, logit, valid = (torch.cat(parts, dim=1) for parts in zip(*compared, strict=True))
        with torch.no_grad():
            images, _, poses = encoded_views(batch)
            images = half_size(images) if self._teacher.half_resolution else self.sized(images)
            taught = self.teacher.observe(images, poses).density_logit(points)
        if settings.space == "occupancy":
            link = self._teacher.link
            assert link is not None
            return occupancy_distillation(self.link(logit), link.to(self.device)(taught), valid)
        if settings.space == "logit":
            return logit_distillation(logit, taught, valid)
        return density_distillation(density_of_logit(logit), density_of_logit(taught), valid)
