"""Export a training checkpoint as a student bundle for the robot, or add an encoder for GPUs to a bundle.

    scene-completion export CHECKPOINT BUNDLE --licence ...
    scene-completion export BUNDLE AGAIN
    scene-completion export BUNDLE --gpu fp16

The second form writes a student as this version does, from the weights in its bundle; all else stays as it is. Both
measure what computing in bfloat16 costs, where the CPU can: a student that passes is run so by `engine: auto`.

The network of a checkpoint of stage masked_scene becomes a folder that `features points` takes.

The encoder for GPUs is an ONNX graph that TensorRT builds an engine of. The command compares it with the student on
real images: the feature map, and density, occupied voxels and labels of the default grid. Where it misses what is
allowed, the command fails, and the bundle stays as it was. No GPU is needed. The first form takes --gpu, too.
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.arguments import BUNDLE
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `scene-completion export`."""
    parser.add_argument("source", type=Path, help="checkpoint of `scene-completion train`, or a bundle")
    meaning = "folder to write the bundle into; the student of a checkpoint gets its name"
    parser.add_argument("bundle", type=BUNDLE, nargs="?", help=meaning)
    parser.add_argument("--licence", help="licence of the weights, which follows from the training data")
    meaning = "what `scene-completion features classes` made: export a student with labels, from a checkpoint of stage "
    meaning += "feature_field, semantics or agglomeration"
    parser.add_argument("--classes", type=Path, metavar="DIR", help=meaning)
    meaning = "with --classes: the bundle that the features were trained on"
    parser.add_argument("--student", type=Path, metavar="DIR", help=meaning)
    meaning = "text bank that goes along with the bundle, of a checkpoint of stage completion or, with --classes, "
    meaning += "agglomeration"
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help=meaning)
    gpu = parser.add_argument_group("encoders for GPUs")
    gpu.add_argument("--gpu", choices=("fp16",), help="make an encoder of this precision")
    meaning = "what to compare on: sequence folders, KITTI drives or bags (default: the bundled drive)"
    add_paths(gpu, "--parity-images", "PLACE", meaning)


def run(args: argparse.Namespace) -> int:
    """Exports, adds what GPUs need, and prints what was written."""
    if args.bundle is None and not args.gpu:
        raise ConfigurationError("is missing", where="BUNDLE", cure="Name the folder; or add encoders to one by --gpu")
    from scene_completion_ros.progress import Progress

    if args.bundle is not None:
        if not (args.licence or args.source.is_dir()):
            raise ConfigurationError("is missing", where="--licence", cure="It follows from the training data")
        Progress().line(f"Exporting {args.source} ...")
        _export(args)
    if args.gpu:
        Progress().line("Making an encoder for GPUs ...")
    return _add_encoder(args) if args.gpu else 0


def _export(args: argparse.Namespace) -> None:
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_ros.progress import print_summary
    from scene_completion_training import export
    from scene_completion_training.checkpoints import Checkpoint
    from scene_completion_training.points.features import export_network
    from scene_completion_training.sparse.hu_net import VoxelHUNet
    from scene_completion_training.stages.completion import SceneField

    if args.source.is_dir():
        again, bf16 = export.measured_in_bf16(export.export_again(open_student(args.source), args.bundle))
        _print_files(args.bundle)
        print_summary({"student": again.name, "bfloat16": bf16, "bundle": args.bundle})
        return
    trained = Checkpoint.read(args.source).stage_class.field_class
    about = {"name": args.bundle.resolve().name, "licence": args.licence}
    bank = TextBank.load(args.vocabulary) if args.vocabulary else None
    if args.classes:
        if not args.student:
            what = "is needed with --classes"
            raise ConfigurationError(what, where="--student", cure="Name the bundle that the features were trained on")
        student = open_student(args.student)
        bundle, agreement = export.export_labelled(args.source, student, args.classes, args.bundle, **about)
        spaces = bundle.feature_spaces
        rows = {"student": f"{bundle.name} with {len(bundle.class_names)} classes"}
        rows["labels"] = f"those of the clusters at {100.0 * agreement:.1f} % of the points"
    elif trained is VoxelHUNet:
        export_network(args.source, args.bundle, **about)
        _print_files(args.bundle)
        return
    else:
        of_scene = trained is SceneField
        if bank and not of_scene:
            what = "such a student has no words"
            raise ConfigurationError(what, where="--vocabulary", cure="Give it with --classes, or leave it out")
        exported = export.export_scene if of_scene else export.export_bundle
        bundle = exported(args.source, args.bundle, provenance={"checkpoint": args.source.name}, **about)
        spaces = (export.space_of_classes(bank, bundle.class_names),) if bank else ()
        fitted_on = bundle.provenance["calibration"]["fitted_on"]
        rows = {"student": bundle.name, "calibrated": f"on {fitted_on}; `calibrate` does it on other drives"}
    if bank:
        bundle = bundle.with_vocabulary(spaces, bank)
    _, rows["bfloat16"] = export.measured_in_bf16(bundle)
    _print_files(args.bundle)
    print_summary(rows | {"bundle": args.bundle})


def _print_files(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size / 1e6:8.2f} MB  {file}")


def _add_encoder(args: argparse.Namespace) -> int:
    from importlib import import_module

    from scene_completion_ros.bags.reader import DEMO_DRIVE
    from scene_completion_ros.inference.bundle import open_student

    for package in ("onnx", "onnxruntime"):
        import_module(package)  # fails before the work
    from scene_completion_training.gpu_parity import export_for_gpus

    bundle = export_for_gpus(
        open_student(args.bundle or args.source),
        parity=args.parity_images or [DEMO_DRIVE],
        report=print,
    )
    print(f"{bundle.folder}: encoder for GPUs added")
    return 0
