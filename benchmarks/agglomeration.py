"""Trains the rows of the table of the agglomeration: which teachers, which losses, how they are weighed (CUA-O3D).

    python -m benchmarks.agglomeration --config training/configs/agglomeration_table.yaml --seeds 0 1 2
    scene-completion evaluate open-vocabulary $(python -m benchmarks.agglomeration --methods) ...

Each row differs from the configuration in what its name says. What is finished is not trained once more, what was
interrupted goes on. Several processes may train other rows or seeds at a time, in outputs of their own.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scene_completion_training.configuration import Configuration, read_configuration
from scene_completion_training.runner import train
from scene_completion_training.stages.agglomeration import (
    AgglomerationConfiguration,
    AgglomerationSettings,
    TeacherSpec,
)

CONFIG = Path("training/configs/agglomeration_table.yaml")
TEXT = "text"
"""Name of the teacher whose features are asked in words."""
WORDLESS = ("dino", "depth")
"""Rows without it."""

Change = Callable[[AgglomerationSettings], AgglomerationSettings]


def settings(**values: Any) -> Change:
    """The same with other settings."""
    return lambda given: dataclasses.replace(given, **values)


def only(*names: str) -> Change:
    """Of the teachers these."""
    return lambda given: dataclasses.replace(
        given, teachers=[teacher for teacher in given.teachers if teacher.name in names]
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

    return changed


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
    "all_alike": all_alike,
    "shared_mask": settings(shared_mask=True),
}
"""Row -> its change of the configuration. "source" has the losses of CUA-O3D: cosine, L1 of what is standardised, and
cosine, which "source_demean" takes of features without the mean of their channels."""


def configured(base: AgglomerationConfiguration, row: str, seed: int, output: Path) -> AgglomerationConfiguration:
    """The training of a row with a seed."""
    return dataclasses.replace(
        base, seed=seed, output=str(run_folder(output, row, seed)), agglomeration=ROWS[row](base.agglomeration)
    )


def run_folder(output: Path, row: str, seed: int) -> Path:
    """Where a row's training with a seed lies."""
    return output / f"{row}-{seed}"


def checkpoint(output: Path, row: str, seed: int) -> Path:
    """What a row's training with a seed leaves."""
    return run_folder(output, row, seed) / "checkpoints" / "last.ckpt"


def share_maps(output: Path, row: str, seed: int) -> None:
    """All rows of a seed see the same samples with the same density: they keep its maps with the first of them."""
    link = run_folder(output, row, seed) / "kept_maps"
    first = next((file.parent for file in sorted(output.glob(f"*-{seed}/kept_maps/key.txt"))), None)
    if first is not None and not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(first.resolve(), target_is_directory=True)


def methods(outputs: Sequence[Path], rows: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Arguments of `evaluate open-vocabulary` for the rows that have checkpoints; what knows no words is probed."""
    found: list[str] = []
    for row in rows:
        files = [str(file) for output in outputs for seed in seeds if (file := checkpoint(output, row, seed)).exists()]
        if files:
            found += ["--probed" if row in WORDLESS else "--method", row, *files]
    return found


def main() -> None:
    """Trains the rows, or prints the arguments that evaluate them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML configuration (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--output", nargs="+", type=Path, default=[Path("runs/agglomeration_table")], metavar="DIR")
    parser.add_argument("--threads", type=int, help="torch threads (default: all cores)")
    parser.add_argument("--methods", action="store_true", help="print --method arguments of what is trained, and end")
    arguments = parser.parse_args()
    if arguments.methods:
        print(*methods(arguments.output, arguments.rows, arguments.seeds))
        return
    base = read_configuration(arguments.config, [], Configuration)
    if not isinstance(base, AgglomerationConfiguration):
        parser.error(f"{arguments.config} is no configuration of stage agglomeration")
    output = arguments.output[0]
    for seed in arguments.seeds:
        for row in arguments.rows:
            configuration = configured(base, row, seed, output)
            share_maps(output, row, seed)
            train(configuration, threads=arguments.threads)


if __name__ == "__main__":
    main()
