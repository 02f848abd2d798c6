"""Export a training checkpoint as a student bundle for the robot."""

from __future__ import annotations

import argparse
from pathlib import Path

from scene_completion_ros.commands.paths import BUNDLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `scene-completion export`."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint of `scene-completion train`")
    parser.add_argument("bundle", type=BUNDLE, help="folder to write the bundle into")
    parser.add_argument("--name", default="student", help="name of the student")
    parser.add_argument("--licence", required=True, help="licence of the weights, which follows from the training data")
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="DIR",
        help="what `scene-completion classes` made: export a student with labels, from a checkpoint of stage "
        "feature_field, semantics or agglomeration",
    )
    parser.add_argument(
        "--student", type=Path, metavar="DIR", help="with --classes: the bundle that the features were trained on"
    )
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="with --classes, of a checkpoint of stage agglomeration: text bank that goes along with the bundle",
    )
    parser.add_argument(
        "--without-weights",
        action="store_true",
        help="leave out weights.safetensors, which nothing but further training needs: half the size",
    )
    parser.add_argument("--trained-on", default="", help="what it was trained on, for the bundle's provenance")


def run(arguments: argparse.Namespace) -> int:
    """Exports and prints what was written."""
    if arguments.classes:
        return _run_labelled(arguments)
    from scene_completion_training.export import export_bundle

    bundle = export_bundle(
        arguments.checkpoint,
        arguments.bundle,
        name=arguments.name,
        licence=arguments.licence,
        provenance={"trained_on": arguments.trained_on, "checkpoint": arguments.checkpoint.name},
        keep_weights=not arguments.without_weights,
    )
    _print_files(arguments.bundle)
    fitted_on = bundle.provenance["calibration"]["fitted_on"]
    print(f"student {bundle.name}, calibrated on {fitted_on}; `calibrate` does it on other drives")
    return 0


def _run_labelled(arguments: argparse.Namespace) -> int:
    from scene_completion_ros.errors import ConfigurationError
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training.export import export_labelled

    if not arguments.student:
        raise ConfigurationError(
            "is needed with --classes", where="--student", cure="Name the bundle that the features were trained on"
        )
    bank = TextBank.load(arguments.vocabulary) if arguments.vocabulary else None
    bundle, agreement = export_labelled(
        arguments.checkpoint,
        open_student(arguments.student),
        arguments.classes,
        arguments.bundle,
        name=arguments.name,
        licence=arguments.licence,
        keep_weights=not arguments.without_weights,
    )
    if bank:
        bundle = bundle.with_vocabulary(bundle.feature_spaces, bank)
    _print_files(arguments.bundle)
    print(
        f"student {bundle.name} with {len(bundle.class_names)} classes; its labels are those of the clusters at "
        f"{100.0 * agreement:.1f} % of the points"
    )
    return 0


def _print_files(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size / 1e6:8.2f} MB  {file}")
