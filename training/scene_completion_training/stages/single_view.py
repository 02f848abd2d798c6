"""Stage `single_view`: the Behind-the-Scenes density field, self-supervised from posed stereo video."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_training.configuration import SingleImageConfiguration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.field_stage import SingleImageStage
from scene_completion_training.losses.occupancy import occupancy_distillation
from scene_completion_training.networks.density_field import DensityField, OccupancyLink, SingleViewObservation
from scene_completion_training.stage import Batch

# Voxels behind the measured depth from which a point counts as hidden: nearer ones may be of the surface.
HIDDEN_VOXELS = 2.0


@dataclass
class SingleViewConfiguration(SingleImageConfiguration):
    """What a single-view field needs."""

    stage: str = "single_view"
    # The trunk of the encoder stays, whatever it is, and its decoder learns: others read the trunk.
    freeze_trunk: bool = False

    def check(self) -> None:
        """Refuses to keep to what was never learned."""
        super().check()
        if self.losses.retention:
            self.check_start()


@dataclass(frozen=True, eq=False)
class Forerunner:
    """What a training started from. No module of the stage: it never learns, and no checkpoint needs it."""

    field: DensityField
    link: OccupancyLink

    def __deepcopy__(self, memo: object) -> "Forerunner":
        return self


class SingleViewStage(SingleImageStage):
    """Trains a `DensityField` from batches of `ViewSamples`."""

    configuration_class = SingleViewConfiguration
    field: DensityField
    settings: SingleViewConfiguration

    def __init__(self, settings: SingleViewConfiguration) -> None:
        super().__init__(settings)
        self.field = self.make_density(depth_channel=bool(settings.losses.dense_depth))

    def start_learning(self) -> None:
        """The trunk of the encoder may stay as it is."""
        super().start_learning()
        if self.settings.freeze_trunk:
            self.encoder.trunk.requires_grad_(False)
        self.encoder.trunk.train()  # BatchNorm that no longer learns keeps its statistics

    def start(self, data: SequencesData) -> None:
        """Remembers what it starts from, where a loss compares with that."""
        super().start(data)
        self._remember()

    def go_on(self) -> None:
        """What it once started from is read again, before the weights of its checkpoint."""
        super().go_on()
        if self.settings.losses.retention and self.settings.start_from:
            self.load(self.settings.start_from)
            self._remember()

    def _remember(self) -> None:
        if self.settings.losses.retention:
            field, link = copy.deepcopy(self.field), copy.deepcopy(self.link)
            self._forerunner = Forerunner(field.eval().requires_grad_(False), link.requires_grad_(False))

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Depth of every pixel, rendered patches of loss views, voxel centres."""
        seen = self.observe(batch)
        terms = self.dense_depth(seen.depth_code, batch["hint"])
        if not self.depth_only:
            terms |= self.volume_terms(seen, self.rendered(seen, batch, generator), batch, generator)
            if self.settings.losses.retention:
                terms["retention"] = self._retained(seen, batch, generator)
        return terms

    def _retained(self, seen: SingleViewObservation, batch: Batch, generator: torch.Generator) -> Tensor:
        """How far its occupancy of hidden points is from that of what it started from."""
        points, before = self.volume(batch, generator), self._forerunner
        field, link = before.field.to(self.device), before.link.to(self.device)
        with torch.no_grad():
            earlier = link(field.observe(self.sized(batch["image"])).density_logit(points))
            coordinates = field.spec.image_coordinates(points, self.camera)
            hint = batch["hint"][:, None]
            measured = functional.grid_sample(hint, coordinates[:, None], mode="nearest", align_corners=False)[:, 0, 0]
            hidden = (measured <= 0.0) | (points[..., 2] > measured + HIDDEN_VOXELS * self.voxel_size)
        return occupancy_distillation(self.link(seen.density_logit(points)), earlier, hidden & field.in_view(points))
