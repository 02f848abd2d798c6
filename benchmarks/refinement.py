"""Trains the rows of two tables: does masked pre-training complete better, and what do labels teach at most?

    python -m benchmarks.refinement --config training/configs/refinement_table.yaml --seeds 0 1 2
    scene-completion evaluate occupancy --bundle ... --checkpoint runs/refinement_table/[rp]*/checkpoints/last.ckpt ...
    python -m benchmarks.seeds OUTPUT/results.json
    scene-completion probe $(python -m benchmarks.refinement --methods --rows supervised) ...

`random` and `pretrained` refine the voxels of the student; with `_frozen` the network stays as it started. `supervised`
learns classes. In `start_from` of the configuration, {seed} stands for that of the training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from benchmarks.ablation import Ablation
from scene_completion_training.stages.supervised_scene import SupervisedSceneConfiguration

Change = Callable[[SupervisedSceneConfiguration], SupervisedSceneConfiguration]


def supervised(given: SupervisedSceneConfiguration) -> SupervisedSceneConfiguration:
    """Classes, from random weights, of scenes of the kinds that the configuration names."""
    data = dataclasses.replace(given.data, threshold=None)
    return dataclasses.replace(given, target="classes", start_from="", data=data)


def refining(*, pretrained: bool, frozen: bool) -> Change:
    """Occupancy of the student's candidates."""

    def change(given: SupervisedSceneConfiguration) -> SupervisedSceneConfiguration:
        sources = [dataclasses.replace(source, kinds=["predicted"]) for source in given.data.sources]
        return dataclasses.replace(
            given,
            target="occupancy",
            start_from=given.start_from if pretrained else "",
            frozen=frozen,
            data=dataclasses.replace(given.data, sources=sources),
        )

    return change


ROWS: dict[str, Change] = {
    "random_frozen": refining(pretrained=False, frozen=True),
    "random": refining(pretrained=False, frozen=False),
    "pretrained_frozen": refining(pretrained=True, frozen=True),
    "pretrained": refining(pretrained=True, frozen=False),
    "supervised": supervised,
}
"""Row -> its change of the configuration."""

TABLE = Ablation(
    rows=ROWS,
    kind=SupervisedSceneConfiguration,
    config=Path("training/configs/refinement_table.yaml"),
    output=Path("runs/refinement_table"),
)

if __name__ == "__main__":
    TABLE.main(__doc__)
