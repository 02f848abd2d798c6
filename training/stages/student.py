"""Stage `student`: a single-view density field learns from the multi-view teacher (KDBTS)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.field_stage import FieldStage, encoded_views, half_size
from scene_completion_training.losses.distillation import (
    density_distillation,
    occupancy_distillation,
    opacity_distillation,
)
from scene_completion_training.losses.fused_occupancy import OccupancyLink
from scene_completion_training.networks.density_field import DensityField, SingleViewObservation
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.rendering.patches import RenderedPatches
from scene_completion_training.settings import StudentSettings


class StudentStage(FieldStage):
    """Distils a frozen `MultiViewField` into a `DensityField` with the head that is deployed.

    The teacher keeps an encoder of its own: in the published code it shares the student's, and its targets drift with
    the student's gradient. With `freeze_encoder` the two are the same weights, of which only the student's head learns.

    Args:
        settings: Losses, steps, rates and what is distilled.
        teacher: The trained teacher.
        teacher_link: From the teacher's logit to its occupancy probability, where it has one.
        teacher_half_resolution: The teacher was trained on images of half the size, and keeps seeing such.

    Raises:
        ConfigurationError: Occupancy is to be distilled, and the teacher has none.
    """

    field: DensityField
    settings: StudentSettings

    def __init__(
        self,
        settings: StudentSettings,
        teacher: MultiViewField,
        teacher_link: OccupancyLink | None = None,
        *,
        teacher_half_resolution: bool = False,
    ) -> None:
        super().__init__(settings)
        if settings.distillation.space == "occupancy" and teacher_link is None:
            raise ConfigurationError(
                "the teacher says nothing about occupancy",
                where="distillation.space",
                cure="Train it with `losses.occupancy`, or distil its density or opacity",
            )
        self._teacher_half_resolution = teacher_half_resolution
        # No modules of the stage: they never learn, and neither checkpoints nor weight averages need them.
        self._teacher = (teacher.eval().requires_grad_(False),)
        self._teacher_link = (teacher_link,)
        if teacher_link is not None:
            self.link.load_state_dict(teacher_link.requires_grad_(False).state_dict())
        encoder = copy.deepcopy(teacher.encoder)
        encoder.requires_grad_(not settings.distillation.freeze_encoder)
        if not settings.distillation.freeze_encoder:
            encoder.trunk.freeze(settings.frozen_blocks)
        depth = bool(settings.losses.dense_depth) or settings.distillation.freeze_encoder
        self.field = DensityField(
            self.camera, teacher.spec, encoder=encoder, depth_channel=depth, hidden=settings.hidden
        )

    @property
    def teacher(self) -> MultiViewField:
        """The frozen teacher."""
        return self._teacher[0].to(self.device)

    @property
    def renders(self) -> bool:
        """Whether any loss needs rendered patches, or the teacher is asked along them."""
        return super().renders or self.settings.distillation.along_rays

    def observe(self, batch: dict[str, Tensor]) -> SingleViewObservation:
        """The student with the batch's images encoded."""
        return self.field.observe(self.sized(batch["image"]))

    def weights(self) -> dict[str, float]:
        """Weight of each loss."""
        return {**super().weights(), "distillation": self.settings.distillation.weight}

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
            images, _, poses = encoded_views(batch)
            images = half_size(images) if self._teacher_half_resolution else self.sized(images)
            taught = self.teacher.observe(images, poses).density_logit(points)
        settings, valid = self.settings.distillation, seen.in_view(points)
        known = batch["weight"] > 0  # frames without evidence have no voxels, only room for them
        valid[:, : known.shape[1]] &= known
        if settings.space == "occupancy":
            (link,) = self._teacher_link
            assert link is not None
            loss = occupancy_distillation(self.link(logit), link.to(self.device)(taught), valid)
        else:
            densities = functional.softplus(logit), functional.softplus(taught)
            if settings.space == "density":
                loss = density_distillation(*densities, valid, limit=settings.limit)
            else:
                loss = opacity_distillation(*densities, valid, voxel_size=self.settings.voxel_size)
        return {"distillation": loss}

    def configure_optimizers(self) -> Any:
        """Adam with the rates of the settings."""
        field = self.field
        head = [field.feature_layer, field.position_layer, field.density_layer, self.link]
        return self.grouped_optimiser(field.encoder.trunk, head)
