"""Calibrate a student bundle on your own stereo drives: what each place ahead is worth, depth and probabilities.

No label and no LiDAR is needed. What stereo says of the training drives, averaged, becomes the student's prior: where
things are before any image is seen. Drives that the student was not trained on say how far to believe the student
beside it. They stretch its densities to the right depth, and give its probabilities and its threshold.

    scene-completion calibrate BUNDLE --prior-from drives/train_* --held-out drives/held_out_*
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_engine, add_paths, say_dropped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion calibrate``."""
    parser.add_argument("bundle", type=Path, help="student bundle; it is written anew")
    add_paths(parser, "--prior-from", "DIR", "stereo drives to average, those of the training", required=True)
    parser.add_argument(
        "--held-out",
        type=Path,
        nargs="+",
        action="append",
        required=True,
        metavar="DIR",
        help="stereo drives that the student was not trained on; given several times, each list counts equally",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th frame (default: all)")
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Open, fit, write and say what came out."""
    from scene_completion_ros.inference.shipped import own_student
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.stereo_calibration import calibrate_on_stereo

    if args.every < 1:
        raise ConfigurationError(f"{args.every} is no step", where="--every", cure="Take every frame, 1, or fewer")
    held_out = {folder.resolve() for group in args.held_out for folder in group}
    if shared := held_out & {folder.resolve() for folder in args.prior_from}:
        raise ConfigurationError(
            f"{', '.join(map(str, sorted(shared)))} is averaged into the prior as well",
            where="--held-out",
            cure="Name drives that took no part in the training",
        )
    before = own_student(args.bundle)
    bundle = calibrate_on_stereo(
        before,
        [open_recording(folder) for folder in args.prior_from],
        [[open_recording(folder) for folder in group] for group in args.held_out],
        every=args.every,
        engine=args.engine,
        threads=args.threads,
    )
    record = bundle.provenance["calibration"]
    stretch = record["density_stretch"]
    knots = "×".join(str(count) for count in bundle.head.prior_knots)
    print(
        f"{bundle.folder}: place prior of {knots} knots, densities stretched by {stretch['scale']} and "
        f"{stretch['offset']}, threshold {bundle.threshold:.4f}, IoU {record['iou_there']:.3f} on the held-out drives"
    )
    say_dropped(before, bundle)
    return 0
