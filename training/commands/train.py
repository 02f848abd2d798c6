"""Train a student network from posed video."""

from __future__ import annotations

import argparse
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `scene-completion train`."""
    parser.add_argument("--config", type=Path, default=CONFIGS / "single_view.yaml", help="YAML configuration")
    parser.add_argument("--fast-dev-run", action="store_true", help="two steps without checkpoints, to check a set-up")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: all cores)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="values that replace the configuration's, e.g. data.root=/data steps=2000 losses.occupancy=0",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, resuming from the last checkpoint in the output folder if there is one."""
    from scene_completion_training.runner import read_configuration, train

    configuration = read_configuration(arguments.config, arguments.overrides)
    checkpoint = train(configuration, fast_dev_run=arguments.fast_dev_run, threads=arguments.threads)
    if not arguments.fast_dev_run:
        if configuration.stage == "supervised":
            print(f"next: scene-completion evaluate semantics --checkpoint {checkpoint} --student BUNDLE ...")
        else:
            print(f"next: scene-completion export {checkpoint} BUNDLE --licence ...")
    return 0
