"""Stage `feature_field`: features of a 2D foundation model lifted into the density field by rendering (SceneDINO)."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_training.configuration import SingleImageConfiguration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.field_stage import BesideDensityStage
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.feature_store import FeatureStore, LiveTokens, mirrored_targets
from scene_completion_training.losses.feature_agreement import cosine_loss, feature_smoothness
from scene_completion_training.networks.feature_field import (
    ArtefactField,
    FeatureField,
    FeatureObservation,
    Reads,
    SalienceDownsampler,
    normalised,
)
from scene_completion_training.rendering import patches
from scene_completion_training.stage import Batch

LEAST_VALID = 0.5  # share of a patch's rays that must be valid for its token to be compared
FEATURE_WEIGHT = 0.2  # weight of the cosine loss against the tokens (SceneDINO)
MEAN_SAMPLES = 32  # samples whose tokens give their mean


@dataclass
class FeatureSettings:
    """What the feature field learns from a 2D foundation model."""

    # Folder of precomputed targets, see `scene-completion features`; without one `model` computes them in the training
    # step.
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
    # Share of the tokens that are drawn from the sample's own view, whose every token says something of its image. The
    # others are drawn from all views that render. In SceneDINO there are only those: 0.
    own_view: float = 0.5
    # Learn tokens less their mean. Most of a token is the same in all of them; the cosine of whole tokens hardly tells
    # two things apart.
    centred: bool = True
    # The density stays as it is in `start_from`; only the features learn. Otherwise everything learns together, from
    # the losses of the density as well.
    freeze_density: bool = True


@dataclass
class FeatureFieldConfiguration(SingleImageConfiguration):
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
        if self.keep_maps and not features.freeze_density:
            what = "the density learns, and its maps of a sample change"
            cure = "Set it to false, or features.freeze_density to true"
            raise ConfigurationError(what, where="keep_maps", cure=cure)
        if features.freeze_density:
            self.check_start(", or let the density learn with features.freeze_density=false")


class FeatureFieldStage(BesideDensityStage):
    """Trains a `FeatureField` from batches of `ViewSamples` with feature targets.

    A patch of rays covers exactly one token of its loss view. Its features are composited, expanded to the size of the
    token, downsampled to one, and compared with it. Raises ConfigurationError: see `feature_targets`. `targets`: tokens
    of images, where they are not those that the configuration names.
    """

    configuration_class = FeatureFieldConfiguration
    field_class = FeatureField
    next_command = "scene-completion train --config training/configs/semantics.yaml features_from={checkpoint}"
    field: FeatureField
    settings: FeatureFieldConfiguration

    def __init__(self, settings: FeatureFieldConfiguration, targets: FeatureStore | LiveTokens | None = None) -> None:
        targets = targets or feature_targets(settings.features)
        super().__init__(settings)
        self.targets = targets
        features, target_size = settings.features, targets.dim
        depth = bool(settings.losses.dense_depth) or features.freeze_density
        density = self.make_density(depth_channel=depth)
        reads: Reads = "units" if features.shared else "decoder"
        self.field = FeatureField(density, target_size=target_size, units=features.units, reads=reads)
        self.start_learning()
        self.downsampler = SalienceDownsampler(target_size, features.rays**2)
        grid = (self.camera.height // features.cell, self.camera.width // features.cell)
        self.artefacts = ArtefactField(target_size, grid)

    @property
    def frozen(self) -> bool:
        """Whether the density stays as it is."""
        return self.settings.features.freeze_density

    def data_needs(self) -> DataNeeds:
        """Tokens of its views, where they are stored."""
        return DataNeeds(targets=None if isinstance(self.targets, LiveTokens) else self.targets)

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
        rays, cells = patches.sample_cell_rays(
            self.loss_camera, poses, views, offsets, patches=render.patches, cell=cell, generator=generator
        )
        with torch.no_grad() if self.frozen else nullcontext():
            rendered = patches.render_rays(
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
        self, seen: FeatureObservation, rendered: patches.RenderedPatches, cells: Tensor, batch: Batch
    ) -> Batch:
        side, count = self.settings.features.rays, self.settings.features.samples
        outside = ~seen.in_view(rendered.points).reshape(rendered.weights.shape)
        hidden = ~patches.observed_values(batch["masks"][:, :, None], rendered)[..., 0]
        valid = ~(patches.invalid_rays(rendered.weights, outside[:, None]) | hidden).reshape(-1, side**2)  # [P, J]
        points, weights = patches.heaviest_samples(rendered, count)
        composed = patches.composite_features(seen.features(points), weights)
        expanded = normalised(self.field.expand(composed)).reshape(*valid.shape, -1)  # [P, J, D]
        colours = patches.observed_values(batch["views"], rendered).reshape(-1, side, side, 3).permute(0, 3, 1, 2)
        smoothness = feature_smoothness(expanded.reshape(-1, side, side, expanded.shape[-1]), colours)
        view = rendered.rays.view.reshape(*cells.shape[:2], -1)[..., 0]  # [B, P]
        return {"feature": self._agreement(expanded, valid, view, cells, batch), "feature_smoothness": smoothness}

    def _agreement(self, rays: Tensor, valid: Tensor, view: Tensor, cells: Tensor, batch: Batch) -> Tensor:
        """Cosine loss of rays [P, J, D] against the tokens of their cells (row, column) [B, P, 2] in views [B, P]."""
        tokens = batch["features"]  # [B, V, D, h, w]
        index = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(view)
        target = tokens[index, view, :, cells[..., 0], cells[..., 1]].flatten(0, 1).float() - self.field.target_mean
        predicted = self.downsampler(rays, valid) + self.artefacts(cells.flatten(0, 1))
        return cosine_loss(predicted, target, valid.float().mean(dim=1) >= LEAST_VALID)


def feature_targets(settings: FeatureSettings) -> FeatureStore | LiveTokens:
    """Targets of a field; a ConfigurationError if none are named, they have other cells, or no mirrored ones."""
    if settings.targets:
        return mirrored_targets(settings.targets, "features.targets", settings.cell)
    if not settings.model:
        cure = "Set features.targets to what `scene-completion features` made, or features.model"
        raise ConfigurationError("neither precomputed targets nor a model are named", where="features", cure=cure)
    return LiveTokens(Backbone(settings.model, settings.layer), settings.cell)
