"""A checkpoint of a network that was never trained."""

from pathlib import Path

import torch

from scene_completion_training.checkpoints import KEY


def save_checkpoint(file: Path, field: torch.nn.Module, stage: str, **configuration: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {f"field.{key}": value for key, value in field.state_dict().items()}
    torch.save({"state_dict": state, KEY: {"configuration": {"stage": stage, **configuration}}}, file)
    return file
