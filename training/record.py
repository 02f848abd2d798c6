"""What a checkpoint remembers of its training: the configuration, and the cameras it was trained with."""

from __future__ import annotations

from typing import Any

import lightning

from scene_completion_ros.errors import SequenceError
from scene_completion_training.data.module import SequencesData

KEY = "scene_completion_training"
_MAY_CHANGE = ("output", "checkpoint_every", "validate_every", "picture_every", "log_every")
_DATA_MAY_CHANGE = ("cache", "workers")


class TrainingRecord(lightning.Callback):
    """Writes the configuration into every checkpoint, and refuses to resume a training of another one.

    Args:
        configuration: The resolved configuration, plain values.
        data: Data module; knows the cameras once it is set up.
    """

    def __init__(self, configuration: dict[str, Any], data: SequencesData) -> None:
        self.configuration = configuration
        self.data = data

    def content(self) -> dict[str, Any]:
        """What goes into a checkpoint: the configuration and the range of focal lengths per image width."""
        ratios = self.data.focal_ratios
        return {"configuration": self.configuration, "focal_range": [min(ratios), max(ratios)]}

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the record."""
        checkpoint[KEY] = self.content()

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Compares the record.

        Raises:
            SequenceError: The checkpoint belongs to a training of another configuration.
        """
        before = checkpoint.get(KEY, {}).get("configuration", {})
        changed = [
            name
            for name, value in self.configuration.items()
            if name not in _MAY_CHANGE and name in before and _essential(before[name]) != _essential(value)
        ]
        if changed:
            raise SequenceError(
                f"the checkpoint there was trained with other values of {changed}",
                where=str(self.configuration["output"]),
                cure="Name another `output` for a new training, or restore the configuration to go on with this one",
            )


def _essential(value: Any) -> Any:
    """A value of the configuration without what of the data changes no result."""
    if not isinstance(value, dict):
        return value
    return {name: entry for name, entry in value.items() if name not in _DATA_MAY_CHANGE}
