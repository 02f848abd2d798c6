"""Stage `single_view`: the Behind-the-Scenes density field, self-supervised from posed stereo video.

Depth of every pixel first, then the head; steps of everything together (photometric rendering included) may follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.averaging import WeightAverage
from training.data.view_batches import ViewSamples
from training.field_stage import FieldStage
from training.head_fit import RaySettings, fit_head
from training.networks.density_field import DensityField, SingleViewObservation
from training.settings import SingleViewSettings

HEAD_PARAMETERS = ("field.feature_layer.", "field.position_layer.", "field.density_layer.", "link.")
"""How the names of the head's parameters begin."""


class SingleViewStage(FieldStage):
    """Trains a `DensityField` from batches of `ViewSamples`.

    Args:
        settings: Losses, steps and rates.
    """

    field: DensityField
    settings: SingleViewSettings

    def __init__(self, settings: SingleViewSettings) -> None:
        super().__init__(settings)
        depth = bool(settings.losses.dense_depth)
        self.field = DensityField(self.camera, encoder=self.make_encoder(), depth_channel=depth, hidden=settings.hidden)

    def observe(self, batch: dict[str, Tensor]) -> SingleViewObservation:
        """The field with the batch's images encoded."""
        return self.field.observe(self.sized(batch["image"]))

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Depth of every pixel, rendered patches of loss views, voxel centres."""
        seen = self.observe(batch)
        terms = self.dense_depth(seen.depth_code, batch["hint"])
        if not self.depth_only:
            terms |= self.volume_terms(seen, self.rendered(seen, batch, generator), batch, generator)
        return terms

    @property
    def fits_head(self) -> bool:
        """Whether there are steps and losses to fit the head alone with."""
        losses = self.settings.losses
        return bool(self.settings.head.steps and (losses.occupancy or losses.stereo_depth))

    @property
    def fits_head_last(self) -> bool:
        """Whether the head is fitted after the last step, because no step trains it."""
        return self.fits_head and self.settings.depth_only_steps >= self.settings.steps

    def fit_head(self, samples: ViewSamples, *, half_resolution: bool) -> float:
        """Fits the head alone, in place; see `training.head_fit`."""
        settings = self.settings
        return fit_head(
            self.field,
            self.link,
            samples,
            settings.head,
            RaySettings(settings.render.samples, settings.render.near, settings.render.far),
            occupancy=settings.losses.occupancy,
            stereo_depth=settings.losses.stereo_depth,
            half_resolution=half_resolution,
            seed=settings.seed,
        )

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Fits the head when the steps of depth alone are over."""
        first = self.settings.depth_only_steps
        if first and self.global_step == first and self.fits_head:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            half = self.global_step < self.settings.half_resolution_steps
            loss = self.fit_head(data.samples(), half_resolution=half)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                for value in self.state_dict().values():  # what each process fitted differs in the last digits
                    torch.distributed.broadcast(value, 0)
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAverage):  # what was averaged before knows nothing of the new head
                    callback.take_over(self, HEAD_PARAMETERS)
            print(f"head fitted to the features: loss {loss:.4f}")

    def configure_optimizers(self) -> Any:
        """Adam with the rates of the settings."""
        field = self.field
        head = [field.feature_layer, field.position_layer, field.density_layer, self.link]
        return self.grouped_optimiser(field.encoder.trunk, head)
