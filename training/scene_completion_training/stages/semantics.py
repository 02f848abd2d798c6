"""Stage `semantics`: what looks alike in 3D is drawn together until it falls into clusters (SceneDINO, stage 2)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.voxels.occupancy import density_of_logit
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.field_stage import SingleImageStage
from scene_completion_training.losses.feature_agreement import (
    KITTI_360_FORCES,
    PAIRS,
    Force,
    Pair,
    correspondence_loss,
    estimate_forces,
)
from scene_completion_training.losses.means import gathered, shared_count
from scene_completion_training.networks import feature_field
from scene_completion_training.randomness import samples_of
from scene_completion_training.rendering.patches import points_in_balls, render_depth, surface_centres
from scene_completion_training.stage import Batch

OVERSAMPLING = 4  # points drawn in a ball for each that is kept: those that are not occupied are left out
# Pixels between the rays that centres are drawn from: 96 for each of five bins at 192×640. Rendering them is most of a
# step; with half the stride it took three quarters of it.
DEPTH_STRIDE = 16
# Dimension in which points are clustered; quantile bins of the depth, from each of which a neighbourhood is drawn; and
# neighbourhoods that others are compared with, as in SceneDINO.
CHANNELS, BINS, BUFFER = 64, 5, 256
# Radius of a neighbourhood, and how far two keep apart, in a volume of the street's measure, metres.
RADIUS_M, APART_M = 0.5, 3.0
# Density from which a point is occupied, per metre of a street, where the field has no occupancy probability.
PUBLISHED_DENSITY = 0.5


@dataclass
class SemanticsConfiguration(Configuration):
    """What unsupervised semantics need (the second stage of SceneDINO)."""

    stage: str = "semantics"
    features_from: str = ""  # checkpoint of the stage `feature_field`, which stays as it is
    crop_points: int = 576  # occupied points of a neighbourhood; those with fewer are dropped
    # "estimated" from the data before the first step, or those found on KITTI-360 for DINO features.
    forces: Literal["estimated", "kitti_360"] = "estimated"

    @property
    def measures(self) -> bool:
        """It has no such losses; but a scene is mirrored about its ground, whose slope is known from voxels."""
        return self.data.views.mirror

    def looks_through(self) -> str:
        """The feature field."""
        return self.features_from

    def completed(self) -> "SemanticsConfiguration":
        """They look through a trained field: its network and the size of its images are what they are there."""
        completed = super().completed()
        if not self.features_from:
            return completed
        stored = Checkpoint.read(Path(self.features_from))
        then, half = stored.configuration, self.steps if stored.half_resolution else 0
        same = {"encoder_weights": then.get("encoder_weights", ""), "hidden": then.get("hidden", self.hidden)}
        return dataclasses.replace(completed, encoder=stored.trunk, half_resolution_steps=half, **same)

    def check(self) -> None:
        """Refuses semantics without a feature field."""
        super().check()
        if not self.features_from:
            cure = "Give the checkpoint of a training with stage `feature_field`"
            raise ConfigurationError("no feature field named", where="features_from", cure=cure)


class SemanticsStage(SingleImageStage):
    """Trains a `DistillationHead` on a frozen `FeatureField`; a BundleError where its checkpoint holds none."""

    configuration_class = SemanticsConfiguration
    field_class = feature_field.FeatureField
    next_command = "scene-completion classes {checkpoint} --student BUNDLE --data SEQUENCES --output classes"
    field: feature_field.FeatureField
    settings: SemanticsConfiguration

    def __init__(self, settings: SemanticsConfiguration) -> None:
        stored = Checkpoint.read(Path(settings.features_from))
        field, link = stored.field_of(feature_field.FeatureField), stored.occupancy_link()
        super().__init__(settings)
        self.field = field.eval().requires_grad_(False)
        self.linked = link is not None
        if link is not None:
            self.link.load_state_dict(link.state_dict())
        self.link.requires_grad_(False)
        self.head = feature_field.DistillationHead(field.target_size, CHANNELS)
        self.buffer = feature_field.CropBuffer(BUFFER, settings.crop_points, field.target_size)
        self.forces_values: Tensor
        self.register_buffer("forces_values", torch.full((len(PAIRS), 2), float("nan")))

    def data_needs(self) -> DataNeeds:
        """Images alone."""
        return DataNeeds(rendered=False)

    def first_weights(self, data: SequencesData) -> None:
        """Its field is trained."""

    def train(self, mode: bool = True) -> "SemanticsStage":
        """Sets the training mode of the head; the field always evaluates."""
        super().train(mode)
        self.field.eval()
        return self

    def weights(self) -> dict[str, float]:
        """Every loss has its weight in it."""
        return dict.fromkeys(PAIRS, 1.0)

    def occupied(self, logit: Tensor) -> Tensor:
        """Whether points with these density logits are occupied: more probably than not, or as in the paper."""
        if self.linked:
            linked: Tensor = self.link(logit)
            return linked > 0.0
        dense: Tensor = density_of_logit(logit) * self.viewpoint.volume.scale > PUBLISHED_DENSITY
        return dense

    @torch.no_grad()
    def crops(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Expanded features of length one [N, crop_points, D] of the occupied points around surfaces of the images."""
        settings, scale = self.settings, self.viewpoint.volume.scale
        found = []
        for number, own in enumerate(samples_of(generator, len(batch["image"]))):
            seen: feature_field.FeatureObservation = self.observe({"image": batch["image"][number : number + 1]})
            near, far = self.point_code.near, self.point_code.far
            depth = render_depth(seen, self.camera, near=near, far=far, device=self.device, stride=DEPTH_STRIDE)
            whole, stride = self.camera, DEPTH_STRIDE  # of every so many-th pixel
            fx, fy, cx, cy = (value / stride for value in (whole.fx, whole.fy, whole.cx, whole.cy))
            camera = Camera(fx, fy, cx, cy, whole.width // stride, whole.height // stride)
            centres = surface_centres(depth, camera, BINS, APART_M * scale, own)
            points = points_in_balls(centres, RADIUS_M * scale, OVERSAMPLING * settings.crop_points, own)
            flat = points.reshape(1, -1, 3)
            kept = (self.occupied(seen.density_logit(flat)) & seen.in_view(flat)).reshape(points.shape[:2])
            for crop, inside in zip(points, kept, strict=True):
                if int(inside.sum()) >= settings.crop_points:
                    chosen = crop[inside][: settings.crop_points]
                    found.append(feature_field.normalised(self.field.expand(seen.features(chosen[None])))[0])
        if not found:
            return torch.zeros(0, settings.crop_points, self.field.target_size, device=self.device)
        return torch.stack(found)

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Attraction and repulsion of points within a crop, with a similar one and with any one."""
        crops, images = self.crops(batch, generator), len(batch["image"])
        # Processes share the buffer, and each draws from it by itself.
        own = samples_of(generator, images)[0]
        partners = self.buffer.partners(crops, own) if len(crops) else None
        share = len(crops) / shared_count(crops.new_tensor(float(len(crops))))
        zero = sum(parameter.sum() for parameter in self.head.parameters()) * 0.0
        terms: Batch = {pair: torch.as_tensor(zero) for pair in PAIRS}
        if partners is not None:
            others: dict[Pair, Tensor] = {"self": crops, "similar": partners.similar, "random": partners.random}
            forces = self._forces(crops, others)
            codes = self.head(crops)
            for pair in PAIRS:
                other = others[pair]
                code = codes if pair == "self" else self.head(other)
                force = forces[pair]
                terms[pair] = share * force.weight * correspondence_loss(crops, other, codes, code, force.shift)
        if self.training and len(every := gathered(crops, images * BINS)):
            self.buffer.push(every)
        return terms

    def _forces(self, crops: Tensor, others: dict[Pair, Tensor]) -> dict[Pair, Force]:
        """Published or estimated forces; these are averaged over the crops that fill the first half of the buffer."""
        if self.settings.forces == "kitti_360":
            return KITTI_360_FORCES
        if torch.isnan(self.forces_values).any() or int(self.buffer.filled) < len(self.buffer.features) // 2:
            some = crops[:, ::4]
            similarities = {pair: torch.einsum("npd,nqd->npq", some, other[:, ::4]) for pair, other in others.items()}
            found = estimate_forces(similarities)
            fresh = crops.new_tensor([[found[pair].weight, found[pair].shift] for pair in PAIRS])
            known = ~torch.isnan(self.forces_values).any()
            self.forces_values.copy_(0.9 * self.forces_values + 0.1 * fresh if known else fresh)
        return {pair: Force(*self.forces_values[row].tolist()) for row, pair in enumerate(PAIRS)}

    def configure_optimizers(self) -> Any:
        """Adam on the head alone."""
        return torch.optim.Adam(self.head.parameters(), self.settings.learning_rate)
