"""Stage `feature_field`: features of a 2D foundation model lifted into the density field by rendering (SceneDINO)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_training.field_stage import FieldStage
from scene_completion_training.losses.feature_agreement import cosine_loss, feature_smoothness
from scene_completion_training.losses.photometric import invalid_rays
from scene_completion_training.losses.rendered_views import observed_values
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.downsampler import ArtefactField, SalienceDownsampler
from scene_completion_training.networks.feature_field import FeatureField, FeatureObservation, normalised
from scene_completion_training.rendering.patches import (
    RenderedPatches,
    composite_features,
    heaviest_samples,
    render_rays,
)
from scene_completion_training.rendering.rays import sample_cell_rays
from scene_completion_training.settings import FeatureFieldSettings

LEAST_VALID = 0.5
"""Share of a patch's rays that must be valid for its token to be compared."""


class FeatureFieldStage(FieldStage):
    """Trains a `FeatureField` from batches of `ViewSamples` with feature targets.

    A patch of rays covers exactly one token of its loss view. Its features are composited, expanded to the size of the
    token, downsampled to one, and compared with it.

    Args:
        settings: Losses, steps, rates and features.
        target_size: Dimension D of the tokens.

    Raises:
        ConfigurationError: Tokens do not fit the rays.
    """

    field: FeatureField
    settings: FeatureFieldSettings

    def __init__(self, settings: FeatureFieldSettings, target_size: int) -> None:
        super().__init__(settings)
        features = settings.features
        if features.cell % features.rays or self.camera.width % features.cell or self.camera.height % features.cell:
            raise ConfigurationError(
                f"{features.cell} pixels",
                where="features.cell",
                cure=f"Take a multiple of {features.rays} (features.rays) that divides {self.camera.width} and "
                f"{self.camera.height}",
            )
        if not 0.0 <= features.own_view <= 0.9:
            raise ConfigurationError(
                f"{features.own_view}", where="features.own_view", cure="Take a share from 0 to 0.9"
            )
        depth = bool(settings.losses.dense_depth) or features.freeze_density
        density = DensityField(self.camera, encoder=self.make_encoder(), depth_channel=depth, hidden=settings.hidden)
        self.field = FeatureField(density, target_size=target_size, channels=features.channels, units=features.units)
        self.start_learning()
        self.downsampler = SalienceDownsampler(target_size, features.rays**2)
        grid = (self.camera.height // features.cell, self.camera.width // features.cell)
        self.artefacts = ArtefactField(target_size, grid) if features.artefacts else None

    def centre(self, samples: Iterable[Mapping[str, Tensor]]) -> None:
        """Takes the mean of the tokens from samples, where they are to be learned less their mean."""
        if self.settings.features.centred:
            tokens = [sample["features"].float().mean(dim=(0, 2, 3)) for sample in samples]
            self.field.target_mean.copy_(torch.stack(tokens).mean(dim=0))

    def start_learning(self) -> None:
        """A frozen density stays so, its trunk included."""
        super().start_learning()
        if self.settings.features.freeze_density:
            self.field.density.requires_grad_(False)

    @property
    def step_of_rays(self) -> int:
        """Pixels of the canonical image from one ray to the next."""
        return self.settings.features.cell // self.settings.features.rays

    @property
    def loss_camera(self) -> Camera:
        """The canonical camera at the resolution at which a token is a patch of rays."""
        return self.camera.resized(self.camera.width // self.step_of_rays, self.camera.height // self.step_of_rays)

    def observe(self, batch: dict[str, Tensor]) -> FeatureObservation:
        """The field with the batch's images encoded."""
        return self.field.observe(self.sized(batch["image"]))

    def weights(self) -> dict[str, float]:
        """Weight of each loss."""
        features = self.settings.features
        return {**super().weights(), "feature": features.weight, "feature_smoothness": features.smoothness}

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Agreement with the tokens; with a learning density also its losses, of the same rays."""
        seen = self.observe(batch)
        batch = self._at_rays(batch)
        half, render = batch["roles"].shape[1] // 2, self.settings.render
        offsets = batch["feature_offsets"] / self.step_of_rays
        rays, cells = sample_cell_rays(
            self.loss_camera,
            batch["encoder_from_view"],
            with_own_view(batch["roles"][:, :half], self.settings.features.own_view),
            offsets,
            patches=render.patches,
            cell=self.settings.features.rays,
            generator=generator,
        )
        frozen = self.settings.features.freeze_density
        with torch.no_grad() if frozen else nullcontext():
            rendered = render_rays(
                seen, rays, samples=render.samples, near=render.near, far=render.far, generator=generator
            )
        terms = self._feature_terms(seen, rendered, cells, batch)
        if not frozen:
            terms |= self.dense_depth(seen.depth_code, batch["hint"])
            terms |= self.volume_terms(seen, rendered, batch, generator)
        return terms

    def _at_rays(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with its views at the resolution of `loss_camera`."""
        step = self.step_of_rays
        if step == 1:
            return batch
        pooled = functional.avg_pool2d(batch["views"].flatten(0, 1), step)
        views = pooled.reshape(*batch["views"].shape[:2], *pooled.shape[1:])
        shown = functional.avg_pool2d(batch["masks"].float(), step) > 1.0 - 1e-4
        return {**batch, "views": views, "masks": shown, "hints": batch["hints"][..., ::step, ::step]}

    def _feature_terms(
        self, seen: FeatureObservation, rendered: RenderedPatches, cells: Tensor, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        side, count = self.settings.features.rays, self.settings.features.samples
        outside = ~seen.in_view(rendered.points).reshape(rendered.weights.shape)
        hidden = ~observed_values(batch["masks"][:, :, None], rendered)[..., 0]
        valid = ~(invalid_rays(rendered.weights, outside[:, None]) | hidden).reshape(-1, side**2)  # [P, J]
        points, weights = heaviest_samples(rendered, count)
        composed = composite_features(seen.features(points), weights)
        expanded = normalised(self.field.expand(composed)).reshape(*valid.shape, -1)  # [P, J, D]
        colours = observed_values(batch["views"], rendered).reshape(-1, side, side, 3).permute(0, 3, 1, 2)
        smoothness = feature_smoothness(expanded.reshape(-1, side, side, expanded.shape[-1]), colours)
        view = rendered.rays.view.reshape(*cells.shape[:2], -1)[..., 0]  # [B, P]
        return {"feature": self._agreement(expanded, valid, view, cells, batch), "feature_smoothness": smoothness}

    def _agreement(
        self, expanded: Tensor, valid: Tensor, view: Tensor, cells: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        """Cosine loss of rays [P, J, D] against the tokens of their cells (row, column) [B, P, 2] in views [B, P]."""
        tokens = batch["features"]  # [B, V, D, h, w]
        mean = self.field.target_mean
        index = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(view)
        if self.settings.features.downsampler == "none":
            target = enlarged_tokens(
                tokens[index, view].flatten(0, 1).float(), cells.flatten(0, 1), self.settings.features.rays
            )
            return cosine_loss(expanded.flatten(0, 1), (target - mean).flatten(0, 1), valid.flatten())
        target = tokens[index, view, :, cells[..., 0], cells[..., 1]].flatten(0, 1).float() - mean
        predicted = self.downsampler(expanded, valid)
        if self.artefacts is not None:
            predicted = predicted + self.artefacts(cells.flatten(0, 1))
        return cosine_loss(predicted, target, valid.float().mean(dim=1) >= LEAST_VALID)

    def configure_optimizers(self) -> Any:
        """Adam with the rates of the settings."""
        density = self.field.density
        head = [density.feature_layer, density.position_layer, density.density_layer, self.link]
        return self.grouped_optimiser(density.encoder.trunk, head)


def with_own_view(views: Tensor, share: float) -> Tensor:
    """Indices of views [B, L] with view 0 added as often as it takes to have about this share of them [B, M]."""
    if not share:
        return views
    count = max(1, round(views.shape[1] * share / (1.0 - share)))
    return torch.cat([views.new_zeros(len(views), count), views], dim=1)


def enlarged_tokens(tokens: Tensor, cells: Tensor, rays: int) -> Tensor:
    """Bilinearly enlarged tokens [P, D, h, w] at the rays of cells (row, column) [P, 2]: [P, rays², D]."""
    height, width = tokens.shape[2:]
    steps = (torch.arange(rays, device=tokens.device) + 0.5) / rays
    y = (cells[:, :1] + steps) / height * 2.0 - 1.0  # [P, rays]
    x = (cells[:, 1:] + steps) / width * 2.0 - 1.0
    grid = torch.stack([x[:, None].expand(-1, rays, -1), y[..., None].expand(-1, -1, rays)], dim=-1)
    sampled = functional.grid_sample(tokens, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.flatten(2).transpose(1, 2)
