"""TensorBoard pictures during training: the encoder's image and the depth the field renders for it."""

from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from scene_completion_training.rendering.patches import render_depth


class TrainingPictures(lightning.Callback):
    """Logs a picture every few steps."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Renders the first image of the batch when its turn has come."""
        if trainer.global_step % self.every or not isinstance(trainer.logger, TensorBoardLogger):
            return
        first = {name: value[:1] for name, value in batch.items()}
        spec = pl_module.point_code
        with torch.no_grad():
            observed = pl_module.observe(first)
        depth = render_depth(observed, pl_module.camera, near=spec.near, far=spec.far, device=pl_module.device)
        inverse = spec.near / depth.clamp_min(spec.near)
        writer = trainer.logger.experiment
        writer.add_image("image", batch["image"][0] / 255.0, trainer.global_step)
        writer.add_image("inverse_depth", inverse[None], trainer.global_step)
