"""Calibrate a student bundle on recordings that nothing is trained or tested on: probabilities and thresholds.

    scene-completion calibrate BUNDLE --labelled RECORDING... --config CONFIGURATION --output CALIBRATED

They are fitted to voxels, or to single scans where there are none. Without --output, a BUNDLE that is named by its
folder is itself written anew; all other files in it stay.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.arguments import BUNDLE
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_number, add_paths, open_recordings

if TYPE_CHECKING:
    from scene_completion_ros.sequences.posed_sequence import PosedSequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion calibrate``."""
    parser.add_argument("bundle", type=Path, help="folder or name of a student")
    meaning = "folder of the calibrated bundle (default: BUNDLE, where that is a folder)"
    parser.add_argument("--output", type=BUNDLE, metavar="DIR", help=meaning)
    add_paths(parser, "--labelled", "DIR", "recordings with voxels or LiDAR, such as a KITTI window")
    parser.add_argument("--config", type=Path, help="of a training of stage completion, whose validation counts, too")
    add_number(parser, "--every", 1, "take every N-th frame")


def validation_of(file: Path) -> "list[PosedSequence]":
    """The validation of a training of stage `completion`, by its configuration; as many frames as that takes."""
    from scene_completion_training.configuration import read_configuration
    from scene_completion_training.data.module import load_sequence, matching
    from scene_completion_training.stages.completion import CompletionConfiguration

    settings = read_configuration(file, [], CompletionConfiguration).data
    root = Path(settings.root)
    sources = matching(root, settings.validation)
    opened = ((load_sequence(root, source, "validation"), source.every) for source in sources)
    return [dataclasses.replace(sequence, frames=sequence.frames[::every]) for sequence, every in opened]


def run(args: argparse.Namespace) -> int:
    """Open, fit, write and say what came out."""
    from scene_completion_ros.inference.bundle import WEIGHTS, open_student
    from scene_completion_ros.progress import Progress, print_summary
    from scene_completion_ros.whole_files import whole_folder
    from scene_completion_training.evaluation.deployed import calibrate_on_truth

    before = open_student(args.bundle)
    if args.output is None and not args.bundle.is_dir():
        what, cure = "comes with the package, where it stays as it is", "Name a folder for the new one with --output"
        raise ConfigurationError(what, where=f"student {args.bundle}", cure=cure)
    recordings = open_recordings(args.labelled)
    if args.config is not None:
        recordings += validation_of(args.config)
    if not recordings:
        raise ConfigurationError("no recordings", where="calibrate", cure="Name some with --labelled or --config")
    Progress().line(f"Calibrating {before.name} on {', '.join(sequence.name for sequence in recordings)} ...")
    bundle = calibrate_on_truth(before, recordings, every=args.every)
    before.unchanged_manifest()
    place, replace = args.output or args.bundle, args.overwrite or not args.output
    with whole_folder(place, BUNDLE.results(args), replace=replace) as folder:
        there = WEIGHTS in bundle.sha256 and bundle.encoder_path.with_name(WEIGHTS).is_file()
        bundle.save(folder, bundle.read_encoder(), bundle.load_weights() if there else None)
        before.unchanged_manifest()  # nor while that was written
    record = bundle.provenance["calibration"]
    print_summary(
        {
            "calibration": f"{len(bundle.calibration.alpha)} knots",
            "thresholds": " and ".join(f"{value:.4f} of {kind}" for kind, value in bundle.thresholds._asdict().items()),
            "IoU": f"{record['iou_there']:.3f} on what it was fitted to",
            "bundle": place,
        }
    )
    return 0
