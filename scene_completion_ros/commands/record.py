"""Record the moments that the student is unsure or wrong about, within a budget of disk space.

    scene-completion record --output recordings --budget 20GB
    ros2 topic pub --once /scene_completion/record_trigger diagnostic_msgs/msg/DiagnosticArray

The recorder is a process of its own. It remembers the last seconds of all images, calibrations, transforms and
odometry. It writes them when the node (parameters record.unsure and record.wrong), or anybody else, asks for it. Each
piece is a bag, as `scene-completion replay` and `extract` take it. Where pieces exceed the budget, the least valuable
ones are deleted. A signal (Ctrl-C) ends the recorder. docs/record.md says more.
"""

import argparse
import re

from scene_completion_ros.commands.paths import Output

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion record``."""
    pieces = Output(())
    parser.add_argument("--output", type=pieces, required=True, metavar="DIR", help="where pieces go; made if missing")
    meaning = "what all pieces may take, such as 20GB or 500MB"
    parser.add_argument("--budget", type=_size, required=True, metavar="SIZE", help=meaning)
    meaning = "seconds before a moment (default: %(default)g)"
    parser.add_argument("--before", type=_seconds, default=5.0, metavar="S", help=meaning)
    meaning = "seconds after it (default: %(default)g)"
    parser.add_argument("--after", type=_seconds, default=5.0, metavar="S", help=meaning)
    meaning = "seconds from which a piece of successive moments is cut (default: %(default)g)"
    parser.add_argument("--longest", type=_seconds, default=60.0, metavar="S", help=meaning)
    meaning = "most memory that messages may take; half of it holds the last seconds (default: 1GB)"
    parser.add_argument("--memory", type=_size, default=10**9, metavar="SIZE", help=meaning)
    meaning = "node whose requests are heard, and whose own topics are left out (default: %(default)s)"
    parser.add_argument("--node", default="/scene_completion", metavar="NAME", help=meaning)
    meaning = "record these instead of all images, CameraInfo, tf and odometry"
    parser.add_argument("--topics", nargs="+", default=[], metavar="TOPIC", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Record; the exit code is 1 where the disk has ended it."""
    from scene_completion_ros.errors import SceneCompletionError

    if args.longest < args.before + args.after:
        raise SceneCompletionError(
            f"{args.longest:g} s is shorter than one moment with --before and --after, {args.before + args.after:g} s",
            where="--longest",
            cure="Give more",
        )
    from scene_completion_ros.ros import dds

    dds.use_shipped_profile()  # before the first import of rclpy
    from scene_completion_ros.ros.recorder import RecordSettings, record

    settings = RecordSettings(
        node="/" + args.node.strip("/"),
        names=tuple("/" + name.lstrip("/") for name in args.topics),
        before_s=args.before,
        after_s=args.after,
        longest_s=args.longest,
        memory=args.memory,
    )
    return record(settings, args.output, args.budget)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?B)?", text.strip().upper())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no size: write it as 20GB or 500MB")
    return round(float(match[1]) * _UNITS[match[2] or ""])


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 3600.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 3600")
    return value
