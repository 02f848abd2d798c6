"""Play a short drive through the running node and show what came out.

Without --bag it is the bundled drive through a rendered town. DIR gets
  index.html   camera image, depth, bird's-eye view and 3D view of every frame; opens offline; with a student that has a
               text bank, words that can be clicked, and their voxels light up
  drive.webp   the animation at its top: camera image and voxels over time
  pictures/    the frames as files
The last line of the standard output is JSON: frames, rate, latencies, occupied voxels, memory. The exit code is 1 if
fewer than 80 % of the frames came out, or one came out empty.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.commands.paths import REPORT, place
from scene_completion_ros.commands.words import DEMO_WORDS, add_words_argument, chosen_words

if TYPE_CHECKING:
    from scene_completion_ros.bags.reader import BagReader
    from scene_completion_ros.ros.replay.bag_replay import ReplayResult, ReplayStatistics

LOWEST_SHARE_OUT = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion demo``."""
    parser.add_argument("--bag", type=Path, metavar="PATH", help="recording to play instead of the bundled drive")
    parser.add_argument(
        "--image-topic", metavar="TOPIC", help="which images (default: the first image topic in alphabetical order)"
    )
    parser.add_argument(
        "--camera",
        type=place,
        metavar="FILE",
        help="calibration instead of the recorded CameraInfo: YAML of camera_calibration, or KITTI's calib.txt:P2",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="folder, name or hf:owner/name@revision of a student (default: kitti_student)",
    )
    parser.add_argument(
        "--output", type=REPORT, default=Path("demo_output"), metavar="DIR", help="default: %(default)s"
    )
    add_words_argument(parser, "can be clicked on the page", ", ".join(DEMO_WORDS))


def run(args: argparse.Namespace) -> int:
    """Play, report, judge."""
    from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
    from scene_completion_ros.bags.reader import BagReader
    from scene_completion_ros.commands.replay import result_drawer, termination_as_interruption
    from scene_completion_ros.geometry.camera_files import read_camera
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_ros.report.drive import DriveReport
    from scene_completion_ros.ros.replay.bag_replay import replay_over_dds

    bag = args.bag or DEMO_DRIVE
    title = f"Completed voxels of {bag.resolve().name if args.bag else 'the bundled drive'}"
    with termination_as_interruption(), BagReader(bag) as reader:
        topic = first_image_topic(reader, args.image_topic)
        camera = read_camera(args.camera) if args.camera else None
        bundle = open_student(args.bundle)
        words = chosen_words(args.words, bundle, DEMO_WORDS)
        parameters = {"bundle": str(bundle.folder)}  # the very one that reads what the node says
        classes = (bundle.class_names, bundle.class_colours)
        with DriveReport(bag, args.output, *classes, title=title, words=words) as report:
            for loss in reader.losses:
                _say(f"warning: {loss}")
                report.page.notes.append(f"The recording is damaged: {loss}")
            outcome = replay_over_dds(
                reader,
                topic,
                camera=camera,
                on_result=_with_progress(result_drawer(report, bundle, words=words), reader.counts[topic]),
                node_parameters=parameters,
                words=words,
            )
            summary = summarise(outcome, args.output.resolve() / "index.html")
            report.page.close(summary)
    problems = find_problems(summary, outcome.frames_empty)
    for problem in problems:
        _say(f"error: {problem}")
    if problems and outcome.node_log:
        _say(outcome.node_log)
    print(f"pictures: {args.output.resolve() / 'pictures'}, report: {summary['report']}")
    print(json.dumps(summary))
    return 1 if problems else 0


def first_image_topic(reader: BagReader, name: str | None) -> str:
    """The named image topic, or the first one in alphabetical order: left cameras come before right ones.

    Raises:
        BagError: There is none, or the name is wrong: lists what there is.
    """
    found = reader.image_topics()
    if name is None and len(found) > 1:
        _say(f"image topics: {', '.join(found)}; playing {found[0]} (--image-topic takes another)")
        name = found[0]
    return reader.choose_image_topic(name)


def summarise(outcome: ReplayStatistics, report: Path) -> dict[str, Any]:
    """What the demo says in its last line."""
    occupied = outcome.occupied
    spread = {"min": min(occupied), "median": statistics.median(occupied), "max": max(occupied)} if occupied else None
    latency: Mapping[str, Any] = outcome.to_json()["latency_ms"]
    return {
        "frames_in": outcome.frames_in,
        "frames_out": outcome.frames_out,
        "rate_hz": outcome.rate_hz,
        "latency_ms": {stage: values for stage, values in latency.items() if values is not None},
        "occupied_voxels": spread,
        "peak_memory_mib": outcome.peak_memory_mib,
        **({"shadow": outcome.shadow} if outcome.shadow else {}),
        "report": str(report),
    }


def find_problems(summary: Mapping[str, Any], frames_empty: int) -> list[str]:
    """Why the demo failed, in words; nothing if it did not."""
    problems = []
    sent, received = int(summary["frames_in"]), int(summary["frames_out"])
    if sent == 0:
        problems.append("the recording holds no image of this topic")
    elif received < LOWEST_SHARE_OUT * sent:
        problems.append(f"only {received} of {sent} frames came out, at least {LOWEST_SHARE_OUT:.0%} should")
    if frames_empty:
        problems.append(f"{frames_empty} of {received} frames came out without an occupied voxel")
    return problems


def _with_progress(draw: Callable[[ReplayResult], None], total: int) -> Callable[[ReplayResult], None]:
    def drawn(result: ReplayResult) -> None:
        draw(result)
        if (result.index + 1) % 10 == 0:
            _say(f"frame {result.index + 1} of {total}: {len(result.voxels)} occupied voxels")

    return drawn


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
