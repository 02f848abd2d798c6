"""Trainings of the rows of a table: each changes one configuration, for several seeds; and how they are evaluated."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from scene_completion_training.configuration import TrainingConfiguration, read_configuration
from scene_completion_training.runner import train

Settings = TypeVar("Settings", bound=TrainingConfiguration)


@dataclass(frozen=True)
class Ablation(Generic[Settings]):
    """A table.

    Attributes:
        rows: Row -> its change of the configuration, which no row makes with output or seed.
        kind: What the configuration has to be.
        config: That which is taken unless another is named.
        output: Folder for the trainings, unless another is named.
        options: Row -> option of the command that evaluates its checkpoints, where it is not "--method".
        before: Readies a training's folder: of (output, row, seed).
    """

    rows: dict[str, Callable[[Settings], Settings]]
    kind: type[Settings]
    config: Path
    output: Path
    options: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[Path, str, int], None] | None = None

    def configured(self, base: Settings, row: str, seed: int, output: Path) -> Settings:
        """The training of a row with a seed."""
        return dataclasses.replace(self.rows[row](base), seed=seed, output=str(run_folder(output, row, seed)))

    def methods(self, outputs: Sequence[Path], rows: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Arguments that evaluate the rows that have checkpoints."""
        found: list[str] = []
        for row in rows:
            named = [checkpoint(output, row, seed) for output in outputs for seed in seeds]
            if files := [str(file) for file in named if file.exists()]:
                found += [self.options.get(row, "--method"), row, *files]
        return found

    def main(self, description: str | None) -> None:
        """Trains the rows, or prints the arguments that evaluate them."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument(
            "--config", type=Path, default=self.config, help="YAML configuration (default: %(default)s)"
        )
        parser.add_argument("--rows", nargs="+", choices=self.rows, default=list(self.rows), help="default: all")
        parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
        parser.add_argument(
            "--output", nargs="+", type=Path, default=[self.output], metavar="DIR", help="trainings go to the first"
        )
        parser.add_argument("--threads", type=int, help="torch threads (default: all cores)")
        parser.add_argument("--methods", action="store_true", help="print arguments that evaluate what is trained")
        arguments = parser.parse_args()
        if arguments.methods:
            print(*self.methods(arguments.output, arguments.rows, arguments.seeds))
            return
        base = read_configuration(arguments.config, [], self.kind)
        output = arguments.output[0]
        for seed in arguments.seeds:
            for row in arguments.rows:
                if self.before:
                    self.before(output, row, seed)
                train(self.configured(base, row, seed, output), threads=arguments.threads)


def run_folder(output: Path, row: str, seed: int) -> Path:
    """Where a row's training with a seed lies."""
    return output / f"{row}-{seed}"


def checkpoint(output: Path, row: str, seed: int) -> Path:
    """What a row's training with a seed leaves."""
    return run_folder(output, row, seed) / "checkpoints" / "last.ckpt"
