"""Export a training checkpoint as a student bundle for the robot."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `scene-completion export`."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint of `scene-completion train`")
    parser.add_argument("bundle", type=Path, help="folder to write the bundle into")
    parser.add_argument("--name", default="student", help="name of the student")
    parser.add_argument("--licence", required=True, help="licence of the weights, which follows from the training data")
    parser.add_argument("--trained-on", default="", help="what it was trained on, for the bundle's provenance")


def run(arguments: argparse.Namespace) -> int:
    """Exports and prints what was written."""
    from training.export import export_bundle

    bundle = export_bundle(
        arguments.checkpoint,
        arguments.bundle,
        name=arguments.name,
        licence=arguments.licence,
        provenance={"trained_on": arguments.trained_on, "checkpoint": arguments.checkpoint.name},
    )
    for file in sorted(arguments.bundle.iterdir()):
        print(f"{file.stat().st_size / 1e6:8.2f} MB  {file}")
    fitted_on = bundle.provenance["calibration"]["fitted_on"]
    print(
        f"student {bundle.name}, calibrated on {fitted_on}; `evaluate kitti --fit-calibration` does it on other drives"
    )
    return 0
