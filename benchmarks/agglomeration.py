"""Trains the rows of the table of the agglomeration: which teachers, which losses, how they are weighed (CUA-O3D).

    python -m benchmarks.agglomeration --config training/configs/agglomeration_table.yaml --seeds 0 1 2
    scene-completion evaluate open-vocabulary $(python -m benchmarks.agglomeration --methods) ...

Each row differs from the configuration in what its name says. What is finished is not trained once more, what was
interrupted goes on. Several processes may train other rows or seeds at a time, in outputs of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.ablation import Ablation, run_folder
from scene_completion_training.stages.agglomeration import (
    AgglomerationConfiguration,
    AgglomerationSettings,
    TeacherSpec,
)

TEXT = "text"
"""Name of the teacher whose features are asked in words."""
WORDLESS = ("dino", "depth")
"""Rows without it."""

Change = Callable[[AgglomerationConfiguration], AgglomerationConfiguration]


def _changed(change: Callable[[AgglomerationSettings], AgglomerationSettings]) -> Change:
    return lambda given: dataclasses.replace(given, agglomeration=change(given.agglomeration))


def settings(**values: Any) -> Change:
    """The same with other settings."""
    return _changed(lambda given: dataclasses.replace(given, **values))


def only(*names: str) -> Change:
    """Of the teachers these."""
    return _changed(
        lambda given: dataclasses.replace(
            given, teachers=[teacher for teacher in given.teachers if teacher.name in names]
        )
    )


def others(*changes: Mapping[str, Any], fixed: bool = False) -> Change:
    """The teachers besides the one of words with other values, the first with the first of them, and so on.

    Args:
        fixed: All losses weigh the same.
    """

    def changed(given: AgglomerationSettings) -> AgglomerationSettings:
        teachers: list[TeacherSpec] = []
        rest = 0
        for teacher in given.teachers:
            if teacher.name != TEXT:
                teacher = dataclasses.replace(teacher, **changes[rest % len(changes)])
                rest += 1
            teachers.append(teacher)
        return dataclasses.replace(given, teachers=teachers, uncertainty="fixed" if fixed else given.uncertainty)

    return _changed(changed)


def all_alike(given: AgglomerationSettings) -> AgglomerationSettings:
    """Every target counts as much as any other, as in CUA-O3D."""
    teachers = [dataclasses.replace(teacher, rarity=0.0) for teacher in given.teachers]
    return dataclasses.replace(given, teachers=teachers)


_RELEASED = {"loss": "l1", "normaliser": "standard", "centre": "none"}, {"loss": "cosine", "centre": "none"}

ROWS: dict[str, Change] = {
    "text": only(TEXT),
    **{name: only(name) for name in WORDLESS},
    "text_dino": only(TEXT, "dino"),
    "fixed": settings(uncertainty="fixed"),
    "log1p_sq": settings(uncertainty="log1p_sq"),
    "log1p": settings(uncertainty="log1p"),
    "kendall": settings(uncertainty="kendall"),
    "phi_s": others({"loss": "l1", "normaliser": "phi_s", "centre": "none"}, fixed=True),
    "source": others(*_RELEASED),
    "source_demean": others(_RELEASED[0], {**_RELEASED[1], "demean": True}),
    "mlp": settings(heads="mlp"),
    "all_alike": _changed(all_alike),
    "shared_mask": settings(shared_mask=True),
}
"""Row -> its change of the configuration. "source" has the losses of CUA-O3D: cosine, L1 of what is standardised, and
cosine, which "source_demean" takes of features without the mean of their channels."""


def share_maps(output: Path, row: str, seed: int) -> None:
    """All rows of a seed see the same samples with the same density: they keep its maps with the first of them."""
    link = run_folder(output, row, seed) / "kept_maps"
    first = next((file.parent for file in sorted(output.glob(f"*-{seed}/kept_maps/key.txt"))), None)
    if first is not None and not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(first.resolve(), target_is_directory=True)


TABLE = Ablation(
    rows=ROWS,
    kind=AgglomerationConfiguration,
    config=Path("training/configs/agglomeration_table.yaml"),
    output=Path("runs/agglomeration_table"),
    options=dict.fromkeys(WORDLESS, "--probed"),
    before=share_maps,
)

if __name__ == "__main__":
    TABLE.main(__doc__)
