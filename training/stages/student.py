"""Stage `student`: a single-view density field learns from a teacher.

That is the multi-view one (KDBTS), or a larger single-view field, for a robot that has not the time to run it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.voxels.occupancy import density_of_logit
from scene_completion_training.checkpoints import Checkpoint, TrainedWeights
from scene_completion_training.configuration import MultiViewConfiguration, SpatialSettings
from scene_completion_training.data.kept_maps import KeptMaps
from scene_completion_training.data.module import SequencesData
from scene_completion_training.field_stage import DataNeeds, SingleImageStage, encoded_views, half_size
from scene_completion_training.losses.dense_depth import log_inverse_depth_loss
from scene_completion_training.losses.distillation import (
    density_distillation,
    occupancy_distillation,
    opacity_distillation,
)
from scene_completion_training.networks.density_field import DensityField, SingleViewObservation
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.networks.occupancy_link import OccupancyLink
from scene_completion_training.rendering.patches import RenderedPatches


@dataclass
class DistillationSettings:
    """What the student learns from the teacher.

    Attributes:
        weight: Weight of the loss (0.01 in KDBTS).
        space: What is compared: clipped densities as in KDBTS, the opacity of a voxel, or the occupancy probability. A
            teacher has the latter if it was trained with `losses.occupancy`.
        limit: Where densities are clipped, per metre.
        along_rays: Compare along the rendered rays too, not only at voxels and in the view at large. It costs as much
            as the rest, and holds the student to the teacher's surfaces, which are softer than its own.
        freeze_encoder: The encoder stays that of the teacher, and only the student's head learns.
        depth: Weight of the teacher's inverse depth of every pixel, which a single-view teacher says; unlike stereo it
            knows the sky, and what has no texture.
    """

    weight: float = 0.01
    space: Literal["density", "opacity", "occupancy"] = "density"
    limit: float = 2.0
    along_rays: bool = True
    freeze_encoder: bool = False
    depth: float = 0.0


@dataclass
class StudentConfiguration(MultiViewConfiguration):
    """What the distilled student needs; its encoder views are those that a multi-view teacher encodes.

    Attributes:
        stage: Name of the stage.
        teacher: Checkpoint of the teacher, of stage `teacher`, or of a stage that trains a single-view field. With
            `keep_maps`, what the encoder of a single-view teacher says of each sample is kept.
        spatial: The student's decoder in space; by default it has none.
        distillation: What is learned from it.
    """

    keeps_maps = True
    stage: str = "student"
    teacher: str = ""
    spatial: SpatialSettings | None = None
    distillation: DistillationSettings = field(default_factory=DistillationSettings)

    def looks_through(self) -> str:
        """A student sees what its teacher sees."""
        return self.teacher

    def check(self) -> None:
        """Refuses a student without a teacher, one that would learn depth before it starts, or never looks for it."""
        super().check()
        says_depth = self.losses.dense_depth or self.distillation.depth or self.distillation.freeze_encoder
        if self.spatial is not None and not says_depth:
            raise ConfigurationError(
                "no loss teaches the depth that the decoder in space looks at",
                where="spatial",
                cure="Set losses.dense_depth or distillation.depth",
            )
        if self.depth_only_steps:
            raise ConfigurationError(
                f"{self.depth_only_steps} steps of depth alone, but a student starts with its teacher's depth",
                where="depth_only_steps",
                cure="Set it to 0",
            )
        if not self.teacher:
            raise ConfigurationError(
                "no teacher named", where="teacher", cure="Give the checkpoint of a training with stage `teacher`"
            )


@dataclass(frozen=True, eq=False)
class Teacher:
    """What a student learns from. No module of the stage: it never learns, and no checkpoint needs it.

    Attributes:
        field: The trained teacher.
        link: From its logit to its occupancy probability, where it has one.
        half_resolution: It was trained on images of half the size, and keeps seeing such.
    """

    field: MultiViewField | DensityField
    link: OccupancyLink | None = None
    half_resolution: bool = False

    def __deepcopy__(self, memo: object) -> Teacher:
        return self  # an average of the student's weights needs no teacher of its own

    @staticmethod
    def read(settings: StudentConfiguration) -> Teacher:
        """The teacher that a configuration names.

        Raises:
            BundleError: Its checkpoint holds none.
            ConfigurationError: Its encoder is another one than the student's.
        """
        stored = Checkpoint.read(Path(settings.teacher))
        single_view = stored.stage_class.field_class is DensityField
        field = stored.field_of(DensityField) if single_view else stored.field_of(MultiViewField)
        if stored.trunk != settings.encoder and (not single_view or settings.distillation.freeze_encoder):
            raise ConfigurationError(
                f"the student's is {settings.encoder}, the teacher's {stored.trunk}",
                where="encoder",
                cure="The student starts from its teacher's encoder: name the same one",
            )
        if settings.keep_maps and not single_view:
            raise ConfigurationError("a teacher of several views", where="keep_maps", cure="Set keep_maps=false")
        return Teacher(field, stored.occupancy_link(), stored.half_resolution)

    @property
    def single_view(self) -> bool:
        """Whether it sees one image, as its student does."""
        return isinstance(self.field, DensityField)


class StudentStage(SingleImageStage):
    """Distils a frozen field, of several views or a larger one of a single view, into the `DensityField` to deploy.

    The teacher keeps an encoder of its own: in the published code it shares the student's, and its targets drift with
    the student's gradient. With `freeze_encoder` the two are the same weights, of which only the student's head learns.

    Args:
        settings: The configuration.
        teacher: The trained teacher, where it is not to be read from the configuration's checkpoint.

    Raises:
        ConfigurationError: Occupancy is to be distilled, and the teacher has none; or its encoder is another one.
        BundleError: The teacher's checkpoint holds none.
    """

    configuration_class = StudentConfiguration
    field: DensityField
    settings: StudentConfiguration

    def __init__(self, settings: StudentConfiguration, teacher: Teacher | None = None) -> None:
        teacher = teacher or Teacher.read(settings)
        super().__init__(settings)
        self._took_head = True
        if settings.distillation.space == "occupancy" and teacher.link is None:
            raise ConfigurationError(
                "the teacher says nothing about occupancy",
                where="distillation.space",
                cure="Train it with `losses.occupancy`, or distil its density or opacity",
            )
        self._teacher = teacher
        teacher.field.eval().requires_grad_(False)
        if teacher.link is not None:
            self.link.load_state_dict(teacher.link.requires_grad_(False).state_dict())
        own = teacher.single_view and not settings.distillation.freeze_encoder
        encoder = self.make_encoder() if own else copy.deepcopy(teacher.field.encoder).requires_grad_(True)
        says_depth = (settings.losses.dense_depth, settings.distillation.freeze_encoder, settings.distillation.depth)
        self.field = DensityField(
            self.camera,
            teacher.field.spec,
            encoder=encoder,
            depth_channel=any(says_depth),
            hidden=settings.hidden,
            spatial=None if settings.spatial is None else settings.spatial.decoder(self.viewpoint),
        )
        self.start_learning()

    def data_needs(self) -> DataNeeds:
        """The views of the teacher."""
        views = 1 if self._teacher.single_view else self.settings.encoder_views
        return DataNeeds(encoder_views=views, rendered=self.renders)

    def start(self, data: SequencesData) -> None:
        """A head that what it starts from does not fit is fitted without images, as that of a new training."""
        super().start(data)
        if self.settings.start_from and not self._took_head:
            self.first_head(data)

    def take(self, weights: TrainedWeights) -> None:
        """Takes the weights of a field; of one with another head, the encoder alone."""
        own = self.field.state_dict()
        self._took_head = all(
            name in own and own[name].shape == value.shape
            for name, value in weights.field.items()
            if not name.startswith("encoder.")
        )
        if self._took_head or not self._teacher.single_view:
            super().take(weights)
        else:
            self.encoder.load_state_dict(weights.under("encoder."))

    def observe(self, batch: dict[str, Tensor]) -> SingleViewObservation:
        """The student with the batch's images encoded."""
        return self.field.observe(self.sized(batch["image"]))

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

    def first_depth(self, data: SequencesData) -> None:
        """It has its teacher's, where it has its encoder."""
        if self._teacher.single_view and not self.settings.distillation.freeze_encoder:
            super().first_depth(data)

    @property
    def teacher(self) -> MultiViewField | DensityField:
        """The frozen teacher."""
        return self._teacher.field.to(self.device)

    @property
    def renders(self) -> bool:
        """Whether any loss needs rendered patches, or the teacher is asked along them."""
        return super().renders or self.settings.distillation.along_rays

    def weights(self) -> dict[str, float]:
        """Weight of each loss."""
        learned = self.settings.distillation
        return {**super().weights(), "distillation": learned.weight, "taught_depth": learned.depth}

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """What `single_view` has, and agreement with the teacher wherever a ray or a voxel was queried."""
        seen = self.observe(batch)
        terms = {} if self.settings.distillation.freeze_encoder else self.dense_depth(seen.depth_code, batch["hint"])
        rendered = self.rendered(seen, batch, generator)
        terms |= self.volume_terms(seen, rendered, batch, generator)
        return terms | self._distilled(seen, rendered, batch, generator)

    def _distilled(
        self,
        seen: SingleViewObservation,
        rendered: RenderedPatches | None,
        batch: dict[str, Tensor],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """At the voxels, at points anywhere in the view, and along the rays."""
        volume = self.volume(batch, generator)
        points = torch.cat([batch["points"], volume], dim=1)
        logit = seen.density_logit(points)
        if rendered is not None and self.settings.distillation.along_rays:
            points = torch.cat([points, rendered.points], dim=1)
            logit = torch.cat([logit, rendered.logit.flatten(1)], dim=1)
        with torch.no_grad():
            asked = self._asked(batch)
            taught = asked.density_logit(points)
        settings, valid = self.settings.distillation, seen.in_view(points)
        known = batch["weight"] > 0  # frames without evidence have no voxels, only room for them
        valid[:, : known.shape[1]] &= known
        if settings.space == "occupancy":
            link = self._teacher.link
            assert link is not None
            loss = occupancy_distillation(self.link(logit), link.to(self.device)(taught), valid)
        else:
            densities = density_of_logit(logit), density_of_logit(taught)
            if settings.space == "density":
                loss = density_distillation(*densities, valid, limit=settings.limit)
            else:
                loss = opacity_distillation(*densities, valid, voxel_size=self.voxel_size)
        return {"distillation": loss} | self._taught_depth(seen, asked)

    def _asked(self, batch: dict[str, Tensor]) -> ObservedField:
        """The teacher with the batch's images encoded."""
        teacher = self.teacher
        if isinstance(teacher, MultiViewField):
            images, _, poses = encoded_views(batch)
            images = half_size(images) if self._teacher.half_resolution else self.sized(images)
            return teacher.observe(images, poses)
        image = half_size(batch["image"]) if self._teacher.half_resolution else batch["image"]
        teacher.encoder.mixed = self.encoder.mixed
        if teacher.spatial is not None:
            teacher.spatial.mixed = self.encoder.mixed
        if not (self.settings.keep_maps and self.training):
            return teacher.observe(image)
        maps = self._kept_maps.get(batch["sample_number"], lambda: teacher.encoder.fixed(image))
        return teacher.observe_fixed(maps, (image.shape[-2], image.shape[-1]))

    @cached_property
    def _kept_maps(self) -> KeptMaps:
        """What the teacher's encoder says of the samples."""
        return self.maps_kept_of(self._teacher.field.encoder, halved=self._teacher.half_resolution)

    def _taught_depth(self, seen: SingleViewObservation, asked: ObservedField) -> dict[str, Tensor]:
        """The teacher's depth of each pixel of the student, where it has a weight."""
        if not (self.settings.distillation.depth and isinstance(asked, SingleViewObservation)):
            return {}
        size = (seen.depth_code.shape[-2], seen.depth_code.shape[-1])
        code = functional.interpolate(asked.depth_code[:, None], size, mode="area")[:, 0]
        depth = 1.0 / self.point_code.inverse_depth(code).clamp_min(1.0 / self.far)
        return {"taught_depth": log_inverse_depth_loss(seen.depth_code, depth, self.point_code)}
