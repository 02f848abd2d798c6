"""Render a drive through a procedural town with exact ground truth.

Training towns have the seeds 0-999, validation towns 1000-1999, demo towns 7000-7999. DIR gets
  sequence/   a posed sequence: stereo images, poses, and as assets LiDAR, depth, labels and voxels
  bag/        with --bag: images, CameraInfo, tf, odometry and LiDAR as rosbag2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ASSETS = ("lidar", "depth", "label", "voxels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion street-world``."""
    parser.add_argument("--seed", type=int, required=True, help="the town")
    parser.add_argument("--frames", type=int, default=40, help="number of frames (default: %(default)s)")
    parser.add_argument(
        "--rate", type=float, default=10.0, metavar="HZ", help="frames a second, at 8 m/s (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to be made")
    parser.add_argument("--bag", action="store_true", help="also write a rosbag2 recording of the left camera")
    parser.add_argument("--stereo-bag", action="store_true", help="also write a rosbag2 recording of both cameras")
    parser.add_argument("--size", type=int, nargs=2, default=(1242, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--assets", nargs="*", choices=ASSETS, default=ASSETS, help="what to store beside the images")
    parser.add_argument("--quality", type=int, default=92, help="JPEG quality (default: %(default)s)")
    parser.add_argument("--supersampling", type=int, default=2, help="rays along a pixel's side (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Render and write."""
    from importlib.util import find_spec

    from scene_completion_ros.errors import SceneCompletionError
    from training.street_world.seeds import role_of_seed

    for flag, value in (("--frames", args.frames), ("--supersampling", args.supersampling)):
        if value < 1:
            raise SceneCompletionError(f"{value} is not positive", where=flag, cure="Give at least 1")
    if not 0.05 <= args.rate <= 1000.0:
        raise SceneCompletionError(f"{args.rate} is out of range", where="--rate", cure="Give 0.05 to 1000 Hz")
    try:
        role = role_of_seed(args.seed)
    except ValueError as error:
        raise SceneCompletionError(str(error), where="--seed", cure="Choose one of these") from None
    if find_spec("embreex") is None:
        raise SceneCompletionError("embreex is missing", where="street-world", cure="Install the extra 'train'")
    for name in ("sequence", "bag"):
        if (args.output / name).exists():
            raise SceneCompletionError("exists already", where=str(args.output / name), cure="Name a new folder")
    from training.street_world.camera_rig import make_rig
    from training.street_world.drive import StreetDrive
    from training.street_world.drive_bag import write_drive_bag

    drive = StreetDrive(
        args.seed, args.frames, make_rig(*args.size), supersampling=args.supersampling, rate_hz=args.rate
    )
    drive.on_image = lambda index, camera: print(f"frame {index + 1} of {args.frames}, {camera}", file=sys.stderr)
    args.output.mkdir(parents=True, exist_ok=True)
    sequence = drive.sequence(tuple(args.assets), args.quality).save(args.output / "sequence")
    print(f"{role} town {args.seed}: {sequence}")
    if args.bag or args.stereo_bag:
        cameras = tuple(drive.rig.cameras) if args.stereo_bag else tuple(drive.rig.cameras)[:1]
        write_drive_bag(drive, args.output / "bag", cameras=cameras, quality=args.quality)
        print(f"bag: {args.output / 'bag'}")
    return 0
