"""Stage `feature_field`: features of a 2D foundation model lifted into the density field by rendering (SceneDINO)."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, TrainingError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.voxels.occupancy import density_of_logit
from scene_completion_training import losses, rendering
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.field_stage import FeatureStage, SingleImageStage
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.feature_store import FeatureStore, LiveTokens, mirrored_targets
from scene_completion_training.networks import feature_field
from scene_completion_training.networks.feature_field import FeatureField, FeatureObservation, normalised
from scene_completion_training.randomness import samples_of
from scene_completion_training.stage import Batch

LEAST_VALID = 0.5  # share of a patch's rays that must be valid for its token to be compared
FEATURE_WEIGHT = 0.2  # weight of the cosine loss against the tokens (SceneDINO)
MEAN_SAMPLES = 32  # samples whose tokens give their mean


@dataclass
class FeatureSettings:
    """What the feature field learns from a 2D foundation model."""

    # Folder of precomputed targets, see `features images`; without one `model` computes them in the training step.
    targets: str = ""
    model: str = ""  # local folder or hub name of the foundation model, where there are no precomputed targets
    layer: int = -1  # its hidden layer
    cell: int = 16  # edge of the square of pixels that a token covers, in the canonical image
    units: int = 64  # hidden units of the features
    shared: bool = False  # they are those of the density instead, `hidden` of them, as in SceneDINO
    rays: int = 4  # rays along the edge of a token (8 in SceneDINO, one a pixel). Fewer leave time for more tokens
    # Samples of a ray whose features are composited: those of the largest weight. Most have next to none.
    samples: int = 8
    # Weight of the smoothness of features within a patch. The loss is scaled by √D, and that of SceneDINO is not: its
    # 0.25 is 0.25 / √768 here.
    smoothness: float = 0.25
    # Share of the tokens that are drawn from the sample's own view, whose every token belongs to its image. The
    # others are drawn from all views that render. In SceneDINO there are only those: 0.
    own_view: float = 0.5
    # Learn tokens less their mean. Most of a token is the same in all of them; the cosine of whole tokens hardly
    # differs between two things.
    centred: bool = True
    # Every ray learns from tokens that are upsampled to it, see `target_features`, in place of the downsampler.
    upsampled: bool = False
    # Learn what in tokens depends on their place in the image alone: a constant map, which is dropped.
    artefacts: bool = True
    # The density stays as it is in `start_from`; only the features learn. Otherwise everything learns together, from
    # the losses of the density as well.
    freeze_density: bool = True


@dataclass
class FeatureFieldConfiguration(Configuration):
    """What the feature field needs."""

    stage: str = "feature_field"
    features: FeatureSettings = field(default_factory=FeatureSettings)

    def check(self) -> None:
        """Refuses tokens that do not fit the rays, and a frozen density that is none."""
        super().check()
        features, camera = self.features, self.viewpoint().camera
        if features.cell % features.rays or camera.width % features.cell or camera.height % features.cell:
            cure = f"Take a multiple of {features.rays} (features.rays) that divides {camera.width} and {camera.height}"
            raise ConfigurationError(f"{features.cell} pixels", where="features.cell", cure=cure)
        if not 0.0 <= features.own_view <= 0.9:
            what = f"{features.own_view}"
            raise ConfigurationError(what, where="features.own_view", cure="Take a share from 0 to 0.9")
        if features.rays == 1 and (features.upsampled or features.smoothness):
            what, cure = "a patch of one ray has no neighbours to differ from", "Take 2 or more, or false and 0"
            raise ConfigurationError(what, where="features.rays, features.upsampled, features.smoothness", cure=cure)
        if features.upsampled and features.artefacts:
            what = "artefacts lie on the grid of tokens, of which nothing is left in upsampled ones"
            raise ConfigurationError(what, where="features.artefacts", cure="Set it to false, or upsampled to false")
        if features.freeze_density:
            self.check_start(", or let the density learn with features.freeze_density=false")


class FeatureFieldStage(FeatureStage):
    """Trains a `FeatureField` from batches of `ViewSamples` with feature targets.

    A patch of rays covers exactly one token of its loss view. Its features are composited, expanded to the size of the
    token, downsampled to one, and compared with it. Raises ConfigurationError: see `feature_targets`.
    """

    configuration_class = FeatureFieldConfiguration
    field_class = FeatureField
    next_command = "scene-completion train --config training/configs/semantics.yaml features_from={checkpoint}"
    field: FeatureField
    settings: FeatureFieldConfiguration

    def __init__(self, settings: FeatureFieldConfiguration) -> None:
        targets = feature_targets(settings.features)
        super().__init__(settings)
        self.targets = targets
        features, target_size = settings.features, targets.dim
        depth = bool(settings.losses.dense_depth) or features.freeze_density
        density = self.make_density(depth_channel=depth)
        self.field = FeatureField(density, target_size=target_size, units=features.units, shared=features.shared)
        self.start_learning()
        if not features.upsampled:
            self.downsampler = feature_field.SalienceDownsampler(target_size, features.rays**2)
        grid = (self.camera.height // features.cell, self.camera.width // features.cell)
        self.artefacts = feature_field.ArtefactField(target_size, grid) if features.artefacts else None

    @property
    def frozen(self) -> bool:
        """Whether the density stays as it is."""
        return self.settings.features.freeze_density

    def data_needs(self) -> DataNeeds:
        """Tokens of its views, where they are stored."""
        return DataNeeds(targets={"": self.targets} if isinstance(self.targets, FeatureStore) else {})

    def start(self, data: SequencesData) -> None:
        """First takes the mean of the tokens."""
        data.setup("fit")
        samples = data.samples()
        self.centre(samples[index] for index in range(min(MEAN_SAMPLES, len(samples))))
        super().start(data)

    def centre(self, samples: Iterable[Mapping[str, Tensor]]) -> None:
        """Takes the mean of the tokens from samples, where they are to be learned less their mean."""
        if self.settings.features.centred:
            generator, tokens = torch.Generator().manual_seed(0), []
            for sample in samples:
                features = sample.get("features")
                if isinstance(self.targets, LiveTokens):
                    views = sample["views"][None].to(self.device)
                    features = self.targets.of(views, torch.arange(views.shape[1])[None], generator)["features"][0]
                assert features is not None
                tokens.append(features.float().mean(dim=(0, 2, 3)))
            self.field.target_mean.copy_(torch.stack(tokens).mean(dim=0))

    @property
    def step_of_rays(self) -> int:
        """Pixels of the canonical image from one ray to the next."""
        return self.settings.features.cell // self.settings.features.rays

    @property
    def loss_camera(self) -> Camera:
        """The canonical camera at the resolution at which a token is a patch of rays."""
        return self.camera.resized(self.camera.width // self.step_of_rays, self.camera.height // self.step_of_rays)

    def weights(self) -> dict[str, float]:
        """Weight of each loss."""
        return {**super().weights(), "feature": FEATURE_WEIGHT, "feature_smoothness": self.settings.features.smoothness}

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Agreement with the tokens; with a learning density also its losses, of the same rays."""
        seen: FeatureObservation = self.observe(batch)
        half, render = batch["roles"].shape[1] // 2, self.settings.render
        views, share = batch["roles"][:, :half], self.settings.features.own_view
        if share:  # view 0 as often as it takes to have about this share of them
            count = max(1, round(half * share / (1.0 - share)))
            views = torch.cat([views.new_zeros(len(views), count), views], dim=1)
        if isinstance(self.targets, LiveTokens):
            batch = {**batch, **self.targets.of(batch["views"], views, generator)}
        batch = self._at_rays(batch)
        offsets = batch["feature_offsets"] / self.step_of_rays
        poses, cell = batch["encoder_from_view"], self.settings.features.rays
        rays, cells = rendering.sample_cell_rays(
            self.loss_camera, poses, views, offsets, patches=render.patches, cell=cell, generator=generator
        )
        with torch.no_grad() if self.frozen else nullcontext():
            rendered = rendering.render_rays(
                seen, rays, samples=render.samples, near=self.near, far=self.far, generator=generator
            )
        terms = self._feature_terms(seen, rendered, cells, batch)
        if not self.frozen:
            terms |= self.dense_depth(seen.depth_code, batch["hint"])
            terms |= self.volume_terms(seen, rendered, batch, generator)
        return terms

    def _at_rays(self, batch: Batch) -> Batch:
        """The batch with its views at the resolution of `loss_camera`."""
        step = self.step_of_rays
        if step == 1:
            return batch
        pooled = functional.avg_pool2d(batch["views"].flatten(0, 1), step)
        views = pooled.reshape(*batch["views"].shape[:2], *pooled.shape[1:])
        shown = functional.avg_pool2d(batch["masks"].float(), step) > 1.0 - 1e-4
        return {**batch, "views": views, "masks": shown, "hints": batch["hints"][..., ::step, ::step]}

    def _feature_terms(
        self, seen: FeatureObservation, rendered: rendering.RenderedPatches, cells: Tensor, batch: Batch
    ) -> Batch:
        side, count = self.settings.features.rays, self.settings.features.samples
        outside = ~seen.in_view(rendered.points).reshape(rendered.weights.shape)
        hidden = ~rendering.observed_values(batch["masks"][:, :, None], rendered)[..., 0]
        valid = ~(rendering.invalid_rays(rendered.weights, outside[:, None]) | hidden).reshape(-1, side**2)  # [P, J]
        points, weights = rendering.heaviest_samples(rendered, count)
        composed = rendering.composite_features(seen.features(points), weights)
        expanded = normalised(self.field.expand(composed)).reshape(*valid.shape, -1)  # [P, J, D]
        colours = rendering.observed_values(batch["views"], rendered).reshape(-1, side, side, 3).permute(0, 3, 1, 2)
        smoothness = losses.feature_smoothness(expanded.reshape(-1, side, side, expanded.shape[-1]), colours)
        view = rendered.rays.view.reshape(*cells.shape[:2], -1)[..., 0]  # [B, P]
        return {"feature": self._agreement(expanded, valid, view, cells, batch), "feature_smoothness": smoothness}

    def _agreement(self, rays: Tensor, valid: Tensor, view: Tensor, cells: Tensor, batch: Batch) -> Tensor:
        """Cosine loss of rays [P, J, D] against the tokens of their cells (row, column) [B, P, 2] in views [B, P]."""
        tokens, settings = batch["features"], self.settings.features  # [B, V, D, h, w]
        place = cells
        if settings.upsampled:  # each ray has its own
            inside = torch.arange(settings.rays, device=cells.device)
            inside = torch.cartesian_prod(inside, inside).repeat(cells.shape[1], 1)  # of each ray in its patch
            place = settings.rays * cells.repeat_interleave(settings.rays**2, dim=1) + inside
            view = view.repeat_interleave(settings.rays**2, dim=1)
        index = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(view)
        target = tokens[index, view, :, place[..., 0], place[..., 1]].flatten(0, 1).float() - self.field.target_mean
        if settings.upsampled:
            return losses.cosine_loss(rays.flatten(0, 1), target, valid.flatten())
        predicted = self.downsampler(rays, valid)
        if self.artefacts is not None:
            predicted = predicted + self.artefacts(cells.flatten(0, 1))
        return losses.cosine_loss(predicted, target, valid.float().mean(dim=1) >= LEAST_VALID)


def feature_targets(settings: FeatureSettings) -> FeatureStore | LiveTokens:
    """Targets of a field; a ConfigurationError if none are named, they have other cells, or no mirrored ones."""
    upsampled = settings.rays if settings.upsampled else 1
    if settings.targets:
        return mirrored_targets(settings.targets, "features.targets", settings.cell, upsampled)
    if not settings.model:
        cure = "Set features.targets to what `scene-completion features images` made, or features.model"
        raise ConfigurationError("neither precomputed targets nor a model are named", where="features", cure=cure)
    return LiveTokens(Backbone(settings.model, settings.layer, key="features.model"), settings.cell, upsampled)


# Stage `semantics`: what has similar features in 3D is drawn together until it forms clusters (SceneDINO, stage 2).


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
    # Where the points of a crop lie: in a ball around a point of a surface; each in a ball of its own, anywhere on the
    # surfaces of the image (no neighbourhood); or along the rays of one of five squares of its pixels (STEGO).
    crops: Literal["balls", "surfaces", "five_squares"] = "balls"
    knn: bool = True  # learn from pairs of similar crops
    # Learn a head. Otherwise the features of the field are what is clustered, and nothing is learned.
    distilled: bool = True

    @property
    def measures(self) -> bool:
        """It has no such losses; but a scene is mirrored about its ground, whose slope is known from voxels."""
        return self.data.views.mirror

    def looks_through(self) -> str:
        """The feature field."""
        return self.features_from

    def completed(self) -> "SemanticsConfiguration":
        """The network and the size of its images are those of the trained field."""
        completed = super().completed()
        if not self.features_from:
            return completed
        stored = Checkpoint.read(Path(self.features_from))
        then, half = stored.configuration, self.steps if stored.half_resolution else 0
        same = {"encoder_weights": then.get("encoder_weights", ""), "hidden": then.get("hidden", self.hidden)}
        return dataclasses.replace(completed, encoder=stored.trunk, half_resolution_steps=half, **same)

    def check(self) -> None:
        """Refuses semantics without a feature field, and switches of a head that is not learned."""
        super().check()
        if not self.features_from:
            cure = "Give the checkpoint of a training with stage `feature_field`"
            raise ConfigurationError("no feature field named", where="features_from", cure=cure)
        if not self.distilled and (self.steps > 1 or not self.knn or self.crops != "balls"):
            what, cure = "without a head nothing is learned", "Take steps=1, and leave out knn and crops"
            raise ConfigurationError(what, where="distilled", cure=cure)
        if self.crops == "five_squares" and math.isqrt(self.crop_points) ** 2 != self.crop_points:
            what, cure = f"{self.crop_points} points fill no square", "Take a square number, such as 256"
            raise ConfigurationError(what, where="crop_points", cure=cure)


class SemanticsStage(SingleImageStage):
    """Trains a `DistillationHead` on a frozen `FeatureField`; a BundleError where its checkpoint holds none."""

    configuration_class = SemanticsConfiguration
    field_class = FeatureField
    next_command = "scene-completion features classes SEQUENCES --model {checkpoint} --student BUNDLE --output classes"
    field: FeatureField
    settings: SemanticsConfiguration

    def __init__(self, settings: SemanticsConfiguration) -> None:
        stored = Checkpoint.read(Path(settings.features_from))
        field, link = stored.field_of(FeatureField), stored.occupancy_link()
        super().__init__(settings)
        self.field = field.eval().requires_grad_(False)
        self.linked = link is not None
        if link is not None:
            self.link.load_state_dict(link.state_dict())
        self.link.requires_grad_(False)
        self.head = feature_field.DistillationHead(field.target_size, CHANNELS) if settings.distilled else None
        self.buffer = feature_field.CropBuffer(BUFFER, settings.crop_points, field.target_size)
        self.forces_values: Tensor = nn.Buffer(torch.full((len(losses.PAIRS), 2), float("nan")))
        # Images looked at, crops found in them, and steps that had crops to compare these with.
        self.found: Tensor = nn.Buffer(torch.zeros(3, dtype=torch.long))
        self.fullest = 0  # occupied points of the neighbourhood that had most

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
        return {pair: float(self.settings.knn or pair != "similar") for pair in losses.PAIRS}

    def occupied(self, logit: Tensor) -> Tensor:
        """Whether points with these density logits are occupied: more probably than not, or as in the paper."""
        if self.linked:
            linked: Tensor = self.link(logit)
            return linked > 0.0
        dense: Tensor = density_of_logit(logit) * self.viewpoint.volume.scale > PUBLISHED_DENSITY
        return dense

    @torch.no_grad()
    def crops(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Expanded features of length one [N, crop_points, D] of the points of crops, see `crops` of the settings."""
        settings, scale = self.settings, self.viewpoint.volume.scale
        found, kept_of = list[Tensor](), settings.crop_points
        for number, own in enumerate(samples_of(generator, len(batch["image"]))):
            seen: FeatureObservation = self.observe({"image": batch["image"][number : number + 1]})
            near, far = self.point_code.near, self.point_code.far
            if settings.crops == "five_squares":
                rays = rendering.five_square_rays(self.camera, math.isqrt(kept_of), self.device)
                features = self.field.expand(rendering.ray_features(seen, rays, near=near, far=far))
                found += normalised(features).reshape(rendering.SQUARES, kept_of, -1)
                continue
            depth = rendering.render_depth(
                seen, self.camera, near=near, far=far, device=self.device, stride=DEPTH_STRIDE
            )
            whole, stride = self.camera, DEPTH_STRIDE  # of every so many-th pixel
            fx, fy, cx, cy = (value / stride for value in (whole.fx, whole.fy, whole.cx, whole.cy))
            camera = Camera(fx, fy, cx, cy, whole.width // stride, whole.height // stride)
            count, drawn = OVERSAMPLING * kept_of, 1
            if settings.crops == "balls":
                centres, drawn = rendering.surface_centres(depth, camera, BINS, APART_M * scale, own), count
            else:
                centres = rendering.surface_points(depth, camera, BINS * count, own)
            points = rendering.points_in_balls(centres, RADIUS_M * scale, drawn, own).reshape(-1, count, 3)
            flat = points.reshape(1, -1, 3)
            kept = (self.occupied(seen.density_logit(flat)) & seen.in_view(flat)).reshape(points.shape[:2])
            for crop, inside in zip(points, kept, strict=True):
                self.fullest = max(self.fullest, int(inside.sum()))
                if int(inside.sum()) >= kept_of:
                    chosen = crop[inside][:kept_of]
                    found.append(normalised(self.field.expand(seen.features(chosen[None])))[0])
        if not found:
            return torch.zeros(0, kept_of, self.field.target_size, device=self.device)
        return torch.stack(found)

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Attraction and repulsion of points within a crop, with a similar one and with any one."""
        if self.head is None:
            return {pair: torch.zeros((), device=self.device, requires_grad=True) for pair in losses.PAIRS}
        crops, images = self.crops(batch, generator), len(batch["image"])
        if self.training:
            if len(crops):
                self.buffer.push(crops)
            ready = len(crops) > 0 and int(self.buffer.filled) > feature_field.NEAREST
            self.found += self.found.new_tensor([images, len(crops), ready])
        partners = self.buffer.partners(crops, samples_of(generator, images)[0]) if len(crops) else None
        zero = sum(parameter.sum() for parameter in self.head.parameters()) * 0.0
        terms: Batch = {pair: torch.as_tensor(zero) for pair in losses.PAIRS}
        if partners is not None:
            others: dict[losses.Pair, Tensor] = {"self": crops, "similar": partners[0], "random": partners[1]}
            forces, codes = self._forces(crops, others), self.head(crops)
            for pair, other in others.items():
                force, code = forces[pair], codes if pair == "self" else self.head(other)
                terms[pair] = force.weight * losses.correspondence_loss(crops, other, codes, code, force.shift)
        return terms

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises TrainingError at the end of a training that learned nothing: it has no checkpoint."""
        images, crops, learned = self.found.tolist()
        if self.head is not None and not learned and self.due(self.global_step) >= self.settings.steps:
            what = f"nothing was learned: {crops} crops of {self.settings.crop_points} occupied points in "
            what += f"{images} images" if crops else f"{images} images, at most {self.fullest} in a neighbourhood"
            cure = "Crops are compared with those of earlier steps: take more steps"
            if not crops:
                other = f", or lower crop_points to {self.fullest}" if self.fullest else ": it has no surfaces"
                cure = f"Train the density of {self.settings.features_from} for more steps{other}"
            raise TrainingError(what, where=self.settings.output, cure=cure)

    def _forces(self, crops: Tensor, others: dict[losses.Pair, Tensor]) -> dict[losses.Pair, losses.Force]:
        """Published or estimated forces; these are averaged over the crops that fill the first half of the buffer."""
        if self.settings.forces == "kitti_360":
            return losses.KITTI_360_FORCES
        if torch.isnan(self.forces_values).any() or int(self.buffer.filled) < len(self.buffer.features) // 2:
            some = crops[:, ::4]
            similarities = {pair: torch.einsum("npd,nqd->npq", some, other[:, ::4]) for pair, other in others.items()}
            found = losses.estimate_forces(similarities)
            fresh = crops.new_tensor([[found[pair].weight, found[pair].shift] for pair in losses.PAIRS])
            known = ~torch.isnan(self.forces_values).any()
            self.forces_values.copy_(0.9 * self.forces_values + 0.1 * fresh if known else fresh)
        return {pair: losses.Force(*self.forces_values[row].tolist()) for row, pair in enumerate(losses.PAIRS)}

    def configure_optimizers(self) -> Any:
        """Adam on the head alone."""
        return None if self.head is None else torch.optim.Adam(self.head.parameters(), self.settings.learning_rate)
