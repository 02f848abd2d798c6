"""Render a drive through a procedural town, or a walk through furnished rooms, with exact ground truth.

Training worlds have the seeds 0-999, validation worlds 1000-1999, test worlds 2000-2999, demo towns 7000-7999; the seed
also decides what kind of street it is, and who carries a camera through rooms. DIR gets
  sequence/   a posed sequence: images, poses, and as assets depth, labels, voxels, LiDAR or instances
  bag/        with --bag: images, CameraInfo, tf, odometry and LiDAR as rosbag2
Both appear when both are complete: an interrupted run is simply started again.
"""

import argparse
from typing import TYPE_CHECKING

from scene_completion_ros.commands.arguments import Output

if TYPE_CHECKING:
    from scene_completion_worlds.street.drive import RenderedDrive

# What KIND stands for, and the rig of a street.
KINDS = {
    "street": ("a town and a car's stereo pair", "stereo"),
    "street-kitti360": ("with a fisheye to each side as well", "kitti360"),
    "street-varied": ("a hilly town and one camera of any height, pitch, roll and lens", "varied"),
    "room": ("furnished rooms and one camera, of a low robot or in a hand", ""),
}
DRIVE = Output(
    ("sequence", "bag"),
    inside=("sequence/sequence.json", "sequence/*s/*/[0-9]*", "bag/metadata.yaml", "bag/bag*.mcap"),
)
STATION_S = 1.6  # from one place in rooms, where the camera turns, to the next


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion world``."""
    meaning = "; ".join(f"{name}: {text}" for name, (text, _) in KINDS.items())
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=meaning)
    parser.add_argument("--seed", type=int, required=True, help="of the world")
    parser.add_argument("--frames", type=int, default=40, help="number of frames (default: %(default)s)")
    parser.add_argument("--output", type=DRIVE, required=True, metavar="DIR", help="folder to be made")
    meaning = "frames a second; 0.6 gives views of rooms that have nothing in common (default: 10, rooms 5)"
    parser.add_argument("--rate", type=float, metavar="HZ", help=meaning)
    meaning = "of images (default: 1242 375, room 640 480)"
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help=meaning)
    parser.add_argument("--supersampling", type=int, default=2, help="rays along a pixel's side (default: %(default)s)")
    parser.add_argument("--bag", action="store_true", help="also write a rosbag2 recording, of the left camera")


def run(args: argparse.Namespace) -> int:
    """Render and write."""
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_worlds.street.drive_bag import write_drive_bag

    _check(args)
    drive = _drive(args)
    with DRIVE.writing(args.output, args) as folder:
        drive.sequence(progress=True).save(folder / "sequence")
        if args.bag:
            write_drive_bag(PosedSequence.load(folder / "sequence"), folder / "bag")
    print(f"{drive.role} {'rooms' if args.kind == 'room' else 'town'} {args.seed}: {args.output / 'sequence'}")
    if args.bag:
        print(f"bag: {args.output / 'bag'}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises a `SceneCompletionError`: a number out of range, or a seed without a role."""
    from importlib import import_module

    from scene_completion_ros.errors import SceneCompletionError
    from scene_completion_worlds.street.town import role_of_seed

    for name in ("frames", "supersampling", "size"):
        value = getattr(args, name)
        if (smallest := min(value or [1]) if name == "size" else value) < 1:
            raise SceneCompletionError(f"{smallest} is not positive", where=f"--{name}", cure="Give at least 1")
    if args.rate is not None and not 0.05 <= args.rate <= 1000.0:
        raise SceneCompletionError(f"{args.rate} is out of range", where="--rate", cure="Give 0.05 to 1000 Hz")
    try:
        role_of_seed(args.seed)
    except ValueError as error:
        raise SceneCompletionError(str(error), where="--seed", cure="Choose one of these") from None
    import_module("embreex")  # fails before anything is written


def _drive(args: argparse.Namespace) -> "RenderedDrive":
    from scene_completion_worlds.room.walk import RoomWalk
    from scene_completion_worlds.street.camera_rig import make_rig
    from scene_completion_worlds.street.drive import StreetDrive

    if args.kind == "room":
        rate = args.rate or 5.0
        size, leg = tuple(args.size or (640, 480)), max(1, round(STATION_S * rate))
        return RoomWalk(args.seed, args.frames, size, leg, supersampling=args.supersampling, rate_hz=rate)
    width, height = args.size or (1242, 375)
    rig = make_rig(width, height, kind=KINDS[args.kind][1])
    return StreetDrive(args.seed, args.frames, rig, args.supersampling, args.rate or 10.0)
