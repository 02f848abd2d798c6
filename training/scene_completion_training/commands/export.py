"""Export a training checkpoint as a student bundle for the robot, or a bundle once more.

    scene-completion export CHECKPOINT BUNDLE --licence ...
    scene-completion export BUNDLE AGAIN

The second form writes a student as this version does, from the weights in its bundle; all else stays as it is. Both
measure what computing in bfloat16 costs, where the CPU can: a student that passes is run so by `engine: auto`.

The network of a checkpoint of stage masked_scene becomes a folder that `features points` takes.
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.arguments import BUNDLE
from scene_completion_ros.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `scene-completion export`."""
    parser.add_argument("source", type=Path, help="checkpoint of `scene-completion train`, or a bundle")
    meaning = "folder to write the bundle into; the student of a checkpoint gets its name"
    parser.add_argument("bundle", type=BUNDLE, help=meaning)
    parser.add_argument("--licence", help="licence of the weights, which follows from the training data")
    meaning = "what `scene-completion features classes` made: export a student with labels, from a checkpoint of stage "
    meaning += "feature_field, semantics or agglomeration"
    parser.add_argument("--classes", type=Path, metavar="DIR", help=meaning)
    meaning = "with --classes: the bundle that the features were trained on"
    parser.add_argument("--student", type=Path, metavar="DIR", help=meaning)
    meaning = "text bank that goes along with the bundle, of a checkpoint of stage completion or, with --classes, "
    meaning += "agglomeration"
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Exports, and prints what was written."""
    from scene_completion_ros.progress import Progress, print_lines, print_summary

    Progress().line(f"Exporting {args.source} ...")
    with BUNDLE.writing(args.bundle, args) as folder:
        rows = _export(args, folder)
    for file in sorted(args.bundle.iterdir()):
        print_lines(f"{file.stat().st_size / 1e6:8.2f} MB  {file}")
    print_summary(rows)
    return 0


def _export(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Writes the bundle into a folder; rows of the summary, none of a network of points."""
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training import export
    from scene_completion_training.checkpoints import Checkpoint, is_student
    from scene_completion_training.points.features import export_network
    from scene_completion_training.sparse.hu_net import VoxelHUNet
    from scene_completion_training.stages.completion import SceneField

    if is_student(args.source):
        again, bf16 = export.measured_in_bf16(export.export_again(open_student(args.source), folder))
        return {"student": again.name, "bfloat16": bf16, "bundle": args.bundle}
    if not args.licence:
        raise ConfigurationError("is missing", where="--licence", cure="It follows from the training data")
    trained = Checkpoint.read(args.source).stage_class.field_class
    about = {"name": args.bundle.resolve().name, "licence": args.licence}
    bank = TextBank.load(args.vocabulary) if args.vocabulary else None
    if args.classes:
        if not args.student:
            what = "is needed with --classes"
            raise ConfigurationError(what, where="--student", cure="Name the bundle that the features were trained on")
        student = open_student(args.student)
        bundle, agreement = export.export_labelled(args.source, student, args.classes, folder, **about)
        spaces = bundle.feature_spaces
        rows: dict[str, object] = {"student": f"{bundle.name} with {len(bundle.class_names)} classes"}
        rows["labels"] = f"those of the clusters at {100.0 * agreement:.1f} % of the points"
    elif trained is VoxelHUNet:
        export_network(args.source, folder, **about)
        return {}
    else:
        of_scene = trained is SceneField
        if bank and not of_scene:
            what = "such a student has no words"
            raise ConfigurationError(what, where="--vocabulary", cure="Give it with --classes, or leave it out")
        exported = export.export_scene if of_scene else export.export_bundle
        bundle = exported(args.source, folder, provenance={"checkpoint": args.source.name}, **about)
        spaces = (export.space_of_classes(bank, bundle.class_names),) if bank else ()
        fitted_on = bundle.provenance["calibration"]["fitted_on"]
        rows = {"student": bundle.name, "calibrated": f"on {fitted_on}; `calibrate` does it on other drives"}
    if bank:
        bundle = bundle.with_vocabulary(spaces, bank)
    _, rows["bfloat16"] = export.measured_in_bf16(bundle)
    return rows | {"bundle": args.bundle}
