"""Calibrate a student bundle on your own stereo drives: what each place ahead is worth, depth and probabilities.

No label and no LiDAR is needed. What stereo says of the training drives, averaged, becomes the student's prior: where
things are before any image is seen. Drives that the student was not trained on say how far to believe the student
beside it. They stretch its densities to the right depth, and give its probabilities and its threshold.

    scene-completion calibrate BUNDLE --prior-from drives/train_* --held-out drives/held_out_*

With --labelled depth is fitted to LiDAR and probabilities to labelled voxels instead, and there is no prior.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_paths, say_dropped

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion calibrate``."""
    parser.add_argument("bundle", type=Path, help="student bundle; it is written anew")
    add_paths(parser, "--prior-from", "DIR", "stereo drives to average, those of the training")
    meaning = "stereo drives that the student was not trained on; given several times, each list counts equally"
    parser.add_argument("--held-out", type=Path, nargs="+", action="append", default=[], metavar="DIR", help=meaning)
    meaning = "instead: recordings with LiDAR and voxels, such as a KITTI window, that nothing is trained or tested on"
    add_paths(parser, "--labelled", "DIR", meaning)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th frame (default: all)")


def run(args: argparse.Namespace) -> int:
    """Open, fit, write and say what came out."""
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.density_stretch import calibrate_on_truth
    from scene_completion_training.evaluation.stereo_calibration import calibrate_on_stereo

    if bool(args.labelled) == bool(args.prior_from and args.held_out) or (
        args.labelled and (args.prior_from or args.held_out)
    ):
        what = "what it is fitted to"
        raise ConfigurationError(what, where="calibrate", cure="Give --prior-from and --held-out, or --labelled alone")
    if args.every < 1:
        raise ConfigurationError(f"{args.every} is no step", where="--every", cure="Take every frame, 1, or fewer")
    held_out = {folder.resolve() for group in args.held_out for folder in group}
    if shared := held_out & {folder.resolve() for folder in args.prior_from}:
        what = f"{', '.join(map(str, sorted(shared)))} is averaged into the prior as well"
        raise ConfigurationError(what, where="--held-out", cure="Name drives that took no part in the training")
    before = open_student(args.bundle)
    if args.labelled:
        bundle = calibrate_on_truth(before, [open_recording(folder) for folder in args.labelled], every=args.every)
        _say(bundle, f"calibration with {len(bundle.calibration.alpha)} knots")
        say_dropped(before, bundle)
        return 0
    averaged = [open_recording(folder) for folder in args.prior_from]
    others = [[open_recording(folder) for folder in group] for group in args.held_out]
    bundle = calibrate_on_stereo(before, averaged, others, every=args.every)
    knots = "×".join(str(count) for count in bundle.head.prior_knots)
    _say(bundle, f"place prior of {knots} knots")
    say_dropped(before, bundle)
    return 0


def _say(bundle: "StudentBundle", what: str) -> None:
    record = bundle.provenance["calibration"]
    stretch = record["density_stretch"]
    print(
        f"{bundle.folder}: {what}, densities stretched by {stretch['scale']} and {stretch['offset']}, threshold "
        f"{bundle.threshold:.4f}, IoU {record['iou_there']:.3f} on what it was fitted to"
    )
