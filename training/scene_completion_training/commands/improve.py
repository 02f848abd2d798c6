"""Improve a student with the robot's own recordings, and accept it only where it is better.

The command extracts the bags, holds a drive out by place and time, and goes on training from the current student. It
calibrates the new student without labels, exports it and checks parity. It then scores both students on the held-out
drive by what later frames saw of the space that was called occupied or free. The report card in the working folder
shows all of it. NEW appears only where the new student is better by the margin, and not worse on the drives of --keep.

An interrupted command goes on where it stopped when it is started again. The exit code is 0 where the new student was
accepted, and 3 where the old one stays.

Bags and drives go to several processes with --workers, or to a Ray cluster with --ray-address.

    scene-completion improve monday.mcap tuesday.mcap --bundle CURRENT --output NEW --keep old/drive
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.evidence import add_scale_argument, add_views_argument
from scene_completion_ros.commands.paths import Output
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import POSES, add_paths, add_workers
from scene_completion_training.commands.extract import SETTINGS, described, settings_of

STAYS = 3  # exit code where the old student stays
OF_EXTRACTION = "extraction."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion improve``."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag")
    parser.add_argument("--bundle", required=True, type=Path, metavar="DIR", help="the current student")
    meaning = "the new student; must not exist"
    parser.add_argument("--output", required=True, type=Output((".",)), metavar="DIR", help=meaning)
    parser.add_argument("--work", type=Output((".",)), metavar="DIR", help="working folder (default: OUTPUT.work)")
    add_paths(parser, "--held-out", "BAG", "recordings to score on (default: the last drive, or a part of it)")
    add_paths(parser, "--replay", "DIR", "posed sequences of earlier drives, so that nothing is forgotten")
    add_paths(parser, "--keep", "DIR", "earlier drives on which the new student must not be worse")
    parser.add_argument("--steps", type=int, default=600, help="steps of the training (default: %(default)s)")
    meaning = (
        "a value of the training's configuration, as after `scene-completion train`, or of the extraction, see "
        "below; may be repeated"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=meaning)
    parser.epilog = f"values of the extraction, for --set {OF_EXTRACTION}KEY=VALUE:\n" + described(SETTINGS)
    meaning = "gain in average precision that is wanted (default: %(default)s)"
    parser.add_argument("--margin", type=float, default=0.01, help=meaning)
    meaning = "loss elsewhere that is allowed (default: %(default)s)"
    parser.add_argument("--tolerance", type=float, default=0.01, help=meaning)
    add_scale_argument(parser, POSES + ", where both students are judged", "corners")
    add_views_argument(parser, 1)
    work = add_workers(parser, "bags and drives")
    work.add_argument("--threads", type=int, help="threads that a task takes (default: all)")


def run(args: argparse.Namespace) -> int:
    """Improve, and say how it ended."""
    from scene_completion_training.improvement.pipeline import Improvement, improve

    if min(args.steps, args.workers) < 1:
        raise ConfigurationError("less than 1", where="--steps, --workers", cure="Give at least 1")
    if args.margin < 0.0 or args.tolerance < 0.0:
        raise ConfigurationError("less than 0", where="--margin, --tolerance", cure="Give 0 or more")
    of_extraction = [one.removeprefix(OF_EXTRACTION) for one in args.set if one.startswith(OF_EXTRACTION)]
    outcome = improve(
        Improvement(
            bags=tuple(args.bags),
            current=args.bundle,
            output=args.output,
            work=args.work or args.output.with_name(f"{args.output.name}.work"),
            extraction=settings_of(of_extraction),
            held_out=tuple(args.held_out),
            replay=tuple(args.replay),
            keep=tuple(args.keep),
            steps=args.steps,
            overrides=tuple(one for one in args.set if not one.startswith(OF_EXTRACTION)),
            margin=args.margin,
            tolerance=args.tolerance,
            scale_from=args.scale_from,
            views=args.views,
            threads=args.threads,
            workers=args.workers,
            ray_address=args.ray_address,
        )
    )
    print(f"report card: {outcome.card}")
    for reason in outcome.reasons:
        print(f"the old student stays: {reason}")
    if not outcome.reasons:
        print(f"new student: {args.output}")
    return STAYS if outcome.reasons else 0
