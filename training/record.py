"""What a checkpoint remembers of its training: the configuration, and the cameras it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning

import scene_completion_ros
from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_training.data.module import SequencesData
from scene_completion_training.viewpoint import Viewpoint

KEY = "scene_completion_training"
FORMAT = 1
"""Version of what a checkpoint holds; those written before it was counted are 0, and hold the same."""
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
        """What goes into a checkpoint: the configuration, the range of focal lengths per image width, who wrote it."""
        ratios = self.data.focal_ratios
        return {
            "format": FORMAT,
            "version": scene_completion_ros.__version__,
            "configuration": self.configuration,
            "focal_range": [min(ratios), max(ratios)],
        }

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the record."""
        checkpoint[KEY] = self.content()

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Compares the record.

        Raises:
            BundleError: A later version wrote the checkpoint.
            SequenceError: It belongs to a training of another configuration.
        """
        record = checkpoint.get(KEY, {})
        refuse_later(record, str(self.configuration["output"]))
        before = record.get("configuration", {})
        changed = [
            name
            for name, value in self.configuration.items()
            if name not in _MAY_CHANGE and name in before and _essential(before[name]) != _essential(value)
        ]
        if before and "camera" not in before and Viewpoint.of_record(self.configuration) != Viewpoint():
            changed += ["camera", "volume"]  # before there was a choice, they were the street's
        if changed:
            raise SequenceError(
                f"the checkpoint there was trained with other values of {changed}",
                where=str(self.configuration["output"]),
                cure="Name another `output` for a new training, or restore the configuration to go on with this one",
            )


def written_by(record: Mapping[str, Any]) -> str:
    """Which version wrote a checkpoint, from its record."""
    return f"scene_completion_ros {record.get('version', 'of before checkpoints named their version')}"


def refuse_later(record: Mapping[str, Any], where: str) -> None:
    """Refuses the record of a checkpoint whose format this version does not know.

    Raises:
        BundleError: So it is.
    """
    if record.get("format", 0) > FORMAT:
        raise BundleError(
            f"{written_by(record)} wrote this checkpoint in format {record['format']}, and "
            f"{scene_completion_ros.__version__} reads up to {FORMAT}",
            where=where,
            cure="Use that version or a later one, or train anew with this one",
        )


def _essential(value: Any) -> Any:
    """A value of the configuration without what of the data changes no result."""
    if not isinstance(value, dict):
        return value
    return {name: entry for name, entry in value.items() if name not in _DATA_MAY_CHANGE}
