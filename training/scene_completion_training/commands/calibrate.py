"""Calibrate a student bundle on recordings that nothing is trained or tested on: depth, probabilities and threshold.

    scene-completion calibrate BUNDLE --labelled RECORDING...

Depth is fitted to LiDAR, and probabilities and threshold to voxels.
"""

import argparse
from pathlib import Path

from scene_completion_training.commands.arguments import add_number, add_paths, open_recordings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion calibrate``."""
    parser.add_argument("bundle", type=Path, help="student bundle; it is written anew")
    add_paths(parser, "--labelled", "DIR", "recordings with LiDAR and voxels, such as a KITTI window", required=True)
    add_number(parser, "--every", 1, "take every N-th frame")


def run(args: argparse.Namespace) -> int:
    """Open, fit, write and say what came out."""
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.progress import Progress, print_summary
    from scene_completion_training.evaluation.deployed import calibrate_on_truth

    before = open_student(args.bundle)
    Progress().line(f"Calibrating {before.name} on {', '.join(map(str, args.labelled))} ...")
    bundle = calibrate_on_truth(before, open_recordings(args.labelled), every=args.every)
    record = bundle.provenance["calibration"]
    stretch = record["density_stretch"]
    print_summary(
        {
            "calibration": f"{len(bundle.calibration.alpha)} knots",
            "densities": f"stretched by {stretch['scale']} and {stretch['offset']}",
            "threshold": f"{bundle.threshold:.4f}",
            "IoU": f"{record['iou_there']:.3f} on what it was fitted to",
            "bundle": bundle.folder,
        }
    )
    return 0
