"""What the stages that train networks of voxels have in common: what a checkpoint remembers, and the optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from scene_completion_training.sparse.hu_net import VoxelHUNet
from scene_completion_training.stage import Stage

BETAS = (0.9, 0.95)
"""Of AdamW, as in the source (MSM, T14)."""


class SceneStage(Stage):
    """Trains a `VoxelHUNet` on scenes; its settings have `data`, `network` and `weight_decay`."""

    field_class = VoxelHUNet

    def remembered(self) -> dict[str, Any]:
        """What the features are, and the network in plain values."""
        return {"columns": list(self.settings.data.columns()), "network": self.settings.network.plain()}

    def warmed_adamw(self, learning: Iterable[Any]) -> dict[str, Any]:
        """AdamW with warm-up and cosine, as Lightning takes it, of parameters or groups of them."""
        settings = self.settings
        optimiser = torch.optim.AdamW(learning, settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.warmed_cosine)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
