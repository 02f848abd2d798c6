"""Render a drive through a procedural town with exact ground truth.

Training towns have the seeds 0-999, validation towns 1000-1999, test towns 2000-2999, demo towns 7000-7999; the seed
also decides what kind of street it is. DIR gets
  sequence/   a posed sequence: images, poses, and as assets LiDAR, depth, labels and voxels
  bag/        with --bag: images, CameraInfo, tf, odometry and LiDAR as rosbag2
Both appear when they are complete: an interrupted run is simply started again.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.commands.arguments import Output

if TYPE_CHECKING:
    from scene_completion_worlds.street.drive import RenderedDrive

ASSETS = ("lidar", "depth", "label", "voxels")
RIGS = ("stereo", "kitti360", "delivery", "varied")
UNFINISHED = ".unfinished"
JPEG_QUALITY = 92


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion street-world``."""
    add_world_arguments(parser, "the town", ASSETS)
    meaning = "frames a second of driving (default: %(default)s)"
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help=meaning)
    meaning = (
        "kitti360 adds a fisheye to each side; delivery is a robot's pair of fisheyes of 120°, 0.4 m above the "
        "ground; varied is one camera of any height, pitch, roll and lens, in a hilly town (default: %(default)s)"
    )
    parser.add_argument("--rig", choices=RIGS, default=RIGS[0], help=meaning)
    meaning = "traffic moves: vehicles in the lanes, people on the pavements and across the street"
    parser.add_argument("--busy", action="store_true", help=meaning)
    meaning = "also write a rosbag2 recording, of the left camera or of all"
    parser.add_argument("--bag", nargs="?", const="left", choices=("left", "all"), help=meaning)
    meaning = "of images ahead (default: 1242 375, delivery 1280 960)"
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help=meaning)


def run(args: argparse.Namespace) -> int:
    """Render and write."""
    check_world(args, "towns")
    from scene_completion_worlds.street.camera_rig import make_rig
    from scene_completion_worlds.street.drive import StreetDrive

    width, height = args.size or (None, None)
    arguments = {name: getattr(args, name) for name in ("seed", "frames", "supersampling")}
    arguments |= {"rig": make_rig(width, height, kind=args.rig), "rate_hz": args.rate, "busy": args.busy}
    return write_world(args, StreetDrive, arguments, "town")


def add_world_arguments(parser: argparse.ArgumentParser, world: str, assets: tuple[str, ...]) -> None:
    """Declares what every rendered world has."""
    parser.add_argument("--seed", type=int, required=True, help=world)
    parser.add_argument("--frames", type=int, default=40, help="number of frames (default: %(default)s)")
    folder = Output(("sequence", "bag", UNFINISHED))
    parser.add_argument("--output", type=folder, required=True, metavar="DIR", help="folder to be made")
    parser.add_argument("--assets", nargs="*", choices=assets, default=assets, help="what to store beside the images")
    parser.add_argument("--supersampling", type=int, default=2, help="rays along a pixel's side (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that render (default: %(default)s)")


def check_world(args: argparse.Namespace, worlds: str) -> None:
    """Raises a `SceneCompletionError`: a number out of range, a seed without a role, or a folder that is there."""
    from importlib import import_module

    from scene_completion_ros.errors import SceneCompletionError
    from scene_completion_worlds.street.town import role_of_seed

    for name in ("frames", "supersampling", "workers"):
        if (value := getattr(args, name)) < 1:
            raise SceneCompletionError(f"{value} is not positive", where=f"--{name}", cure="Give at least 1")
    if not 0.05 <= args.rate <= 1000.0:
        raise SceneCompletionError(f"{args.rate} is out of range", where="--rate", cure="Give 0.05 to 1000 Hz")
    try:
        role_of_seed(args.seed, worlds)
    except ValueError as error:
        raise SceneCompletionError(str(error), where="--seed", cure="Choose one of these") from None
    import_module("embreex")  # fails before anything is written
    for name in ("sequence", "bag"):
        if (args.output / name).exists():
            raise SceneCompletionError("exists already", where=str(args.output / name), cure="Name a new folder")


def write_world(args: argparse.Namespace, kind: "Callable[..., RenderedDrive]", made: dict[str, Any], name: str) -> int:
    """Renders a drive, and writes it as a sequence, and as a bag where one is wanted."""
    import shutil

    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_worlds.street.drive_bag import write_drive_bag

    unfinished = args.output / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    drive = _render(args, kind, made, unfinished / "sequence")
    folder = (unfinished / "sequence").rename(args.output / "sequence")
    print(f"{drive.role} {name} {args.seed}: {folder}")
    if args.bag:
        sequence = PosedSequence.load(folder)
        cameras = tuple(sequence.cameras) if args.bag == "all" else tuple(sequence.cameras)[:1]
        write_drive_bag(sequence, unfinished / "bag", cameras=cameras)
        print(f"bag: {(unfinished / 'bag').rename(args.output / 'bag')}")
    unfinished.rmdir()
    return 0


def _render(
    args: argparse.Namespace, kind: "Callable[..., RenderedDrive]", arguments: dict[str, Any], folder: Path
) -> "RenderedDrive":
    from contextlib import nullcontext

    from scene_completion_worlds.street.drive import FrameContent, frames_computed_by

    options: dict[str, Any] = {"assets": tuple(args.assets), "quality": JPEG_QUALITY}
    drive = kind(**arguments)
    reported = -1

    def with_progress(index: int, content: FrameContent) -> FrameContent:
        nonlocal reported
        if index > reported:
            reported = index
            print(f"frame {index + 1} of {args.frames}", file=sys.stderr)
        return content

    here = nullcontext(drive.content_keeping_last(**options))
    with frames_computed_by(args.workers, kind, arguments, options) if args.workers > 1 else here as content_of:
        drive.sequence(**options, content_of=lambda index: with_progress(index, content_of(index))).save(folder)
    return drive
