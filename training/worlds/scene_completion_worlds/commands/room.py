"""Render a walk through furnished rooms with exact ground truth.

Training rooms have the seeds 0-999, validation rooms 1000-1999, test rooms 2000-2999. DIR gets
  sequence/   a posed sequence: images, poses, and as assets depth, labels, things and voxels of 5 cm
  bag/        with --bag: images, CameraInfo, tf and odometry as rosbag2
Both appear when they are complete: an interrupted run is simply started again.
"""

import argparse

from scene_completion_worlds.commands.street import add_world_arguments, check_world, write_world

ASSETS = ("depth", "label", "instance", "voxels")
CARRIERS = ("robot", "hand")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion room-world``."""
    add_world_arguments(parser, "the rooms", ASSETS)
    parser.add_argument("--rate", type=float, default=5.0, metavar="HZ", help="frames a second (default: %(default)s)")
    meaning = "frames from one place where the camera turns to the next; 1: views apart (default: %(default)s)"
    parser.add_argument("--leg", type=int, default=8, metavar="FRAMES", help=meaning)
    meaning = "robot is level and 0.15 to 0.7 m high; hand is 1.1 to 1.7 m high, and nods and rolls (default: by seed)"
    parser.add_argument("--carrier", choices=CARRIERS, help=meaning)
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), default=(640, 480))
    parser.add_argument("--bag", nargs="?", const="left", choices=("left",), help="also write a rosbag2 recording")


def run(args: argparse.Namespace) -> int:
    """Render and write."""
    check_world(args, "rooms")
    from scene_completion_ros.errors import SceneCompletionError
    from scene_completion_worlds.room.walk import RoomWalk

    if args.leg < 1:
        raise SceneCompletionError(f"{args.leg} is not positive", where="--leg", cure="Give at least 1")
    arguments = {name: getattr(args, name) for name in ("seed", "frames", "leg", "carrier", "supersampling")}
    arguments |= {"size": tuple(args.size), "rate_hz": args.rate}
    return write_world(args, RoomWalk, arguments, "rooms")
