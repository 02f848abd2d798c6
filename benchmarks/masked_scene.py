"""Trains the rows of the table of masked scene modelling: how much is hidden, where, and what the loss compares (MSM).

    python -m benchmarks.masked_scene --config training/configs/masked_scene_table.yaml --seeds 0 1 2
    scene-completion probe $(python -m benchmarks.masked_scene --methods) --untrained ... --inputs --units ...

What is finished is not trained once more, what was interrupted goes on. Several processes may train other rows or
seeds at a time, in outputs of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.ablation import Ablation
from scene_completion_training.sparse.hu_net import AttentionKind
from scene_completion_training.stages.masked_scene import MaskedSceneConfiguration

Change = Callable[[MaskedSceneConfiguration], MaskedSceneConfiguration]


def with_values(**values: Any) -> Change:
    """The same with other settings."""
    return lambda given: dataclasses.replace(given, **values)


def attending(curve: AttentionKind) -> Change:
    """The same with attention along a curve."""
    return lambda given: dataclasses.replace(given, network=dataclasses.replace(given.network, attention=curve))


ROWS: dict[str, Change] = {
    "masked": with_values(),
    "unmasked": with_values(masking="none"),
    **{f"masked_{ratio}": with_values(ratio=ratio / 100) for ratio in (20, 60, 80)},
    "not_centred": with_values(centred=False),
    "last_level": with_values(loss_levels="last"),
    "top_down": with_values(masking="top_down"),
    "zorder": attending("zorder"),
    "hilbert": attending("hilbert"),
}
"""Row -> its change of the configuration; "masked" hides 40 % from the bottom up, with convolutions only."""

TABLE = Ablation(
    rows=ROWS,
    kind=MaskedSceneConfiguration,
    config=Path("training/configs/masked_scene_table.yaml"),
    output=Path("runs/masked_scene_table"),
)

if __name__ == "__main__":
    TABLE.main(__doc__)
