"""The options of ``scene-completion replay`` that say how a recording is played through the node."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scene_completion_ros.ros.replay.playback import Playback

_ONLY_THROUGH_THE_NODE = ("rate", "loop", "clock", "timeout", "node", "also", "remap", "lock_step", "params_file")


def add_playback_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; none of them goes with ``--offline``."""
    group = parser.add_argument_group("playing through the node (not with --offline)")
    pace = group.add_mutually_exclusive_group()
    pace.add_argument(
        "--lock-step",
        action="store_true",
        default=None,
        help="the next image waits until the node has completed or dropped the last one: the default",
    )
    pace.add_argument(
        "--rate",
        type=float,
        metavar="FACTOR",
        help="instead, play in real time, this many times as fast as recorded, and let the node drop what it cannot "
        "keep up with",
    )
    group.add_argument(
        "--loop",
        type=int,
        metavar="N",
        help="play the recording N times (0: until interrupted); bag, report and scores hold the first time only",
    )
    group.add_argument(
        "--clock", type=float, metavar="HZ", help="publish the recorded time on /clock; the node gets use_sim_time"
    )
    group.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="longest wait for the result of an image (default: 60)"
    )
    group.add_argument(
        "--node",
        metavar="NAME",
        help="play to this running node, such as /scene_completion, under the recorded topic names, instead of "
        "starting one; bundle and grid are then only what the report is drawn with, and have to be the node's",
    )
    group.add_argument(
        "--params-file",
        type=Path,
        metavar="FILE",
        help="parameters of the node that is started, as a robot has them (/** and scene_completion of any namespace); "
        "bundle, engine, grid and what a replay needs are left out",
    )
    group.add_argument(
        "--also", action="append", metavar="TOPIC", help="publish this recorded topic as well; may be repeated"
    )
    group.add_argument(
        "--remap",
        action="append",
        metavar="FROM:=TO",
        help="publish a recorded topic, or /clock, under another name; may be repeated",
    )


def playback_of(args: argparse.Namespace) -> Playback:
    """What the options ask for.

    Raises:
        SceneCompletionError: An option makes no sense: names it.
    """
    from scene_completion_ros.ros.replay.playback import ANSWER_TIMEOUT_S, Playback, parse_remappings

    return Playback(
        rate=args.rate,
        loops=1 if args.loop is None else args.loop,
        clock_hz=args.clock,
        timeout_s=ANSWER_TIMEOUT_S if args.timeout is None else args.timeout,
        node=args.node,
        also=tuple(args.also or ()),
        remappings=parse_remappings(args.remap or ()),
    )


def refuse_offline(args: argparse.Namespace) -> None:
    """Refuse the options where there is no node.

    Raises:
        SceneCompletionError: One of them was given: names it.
    """
    from scene_completion_ros.errors import SceneCompletionError

    for name in _ONLY_THROUGH_THE_NODE:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise SceneCompletionError(
                "an offline replay has no node to play to: it completes every image in this process",
                where=option,
                cure=f"Leave out {option} or --offline",
            )
