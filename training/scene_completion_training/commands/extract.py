"""Extract posed training sequences from bags.

DIR gets one folder a bag with
  00/, 01/, …   posed sequences: images, masks, and sequence.json with cameras and poses
  report.json   what was extracted, what was left out, and why
A bag that was extracted before, unchanged and with the same options, is left alone: an interrupted command goes on.

Poses come from tf or odometry; where a bag has none, from the images (structure from motion). Those have metres where
several cameras stand at known distances, or where odometry says how far the rig went. They also have metres where
--camera-height says how far below the first camera the ground is. Otherwise the sequence says `scale: unknown` and
training refuses it.

The exit code is 0 when at least one sequence exists (with --strict: when every bag gave one), otherwise 1.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from scene_completion_ros.commands.paths import Output
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_workers
from scene_completion_training.extraction.settings import IMAGES, POSES, USE, ExtractionSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion extract``."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag")
    parser.add_argument("--output", required=True, type=Output(()), metavar="DIR", help="folder for the sequences")
    add_settings(parser)
    work = add_workers(parser, "bags")
    work.add_argument(
        "--threads", type=int, help="threads a bag, for structure from motion (default: all cores, on a cluster one)"
    )
    work.add_argument("--strict", action="store_true", help="fail when any bag gave nothing")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare an option for each setting of an extraction."""
    groups = {title: parser.add_argument_group(title) for title in (USE, POSES, IMAGES)}
    for setting in fields(ExtractionSettings):
        _add_option(groups[setting.metadata["group"]], setting)


def settings_of(args: argparse.Namespace) -> ExtractionSettings:
    """The settings that were asked for; a `ConfigurationError` if one cannot be used."""
    asked = {setting.name: getattr(args, setting.name) for setting in fields(ExtractionSettings)}
    asked["image_topics"] = tuple(args.image_topics)
    asked |= {
        "calibration": _pairs(args.calibration, "--camera-file"),
        "ego_masks": _pairs(args.ego_masks, "--ego-mask"),
    }
    return ExtractionSettings(**asked)


def _add_option(group: argparse._ArgumentGroup, setting: Field[Any]) -> None:
    """Declare the option of a setting: one that may be given several times, or a value."""
    option, default = setting.metadata, setting.default
    several = {"action": "append"} if isinstance(default, tuple) else {"choices": option["choices"]}
    kind = type(default) if isinstance(default, int | float) else float if option["limits"] else str
    told = "" if default is None or default == () else " (default: %(default)s)"
    group.add_argument(
        option["flag"],
        dest=setting.name,
        type=kind,
        default=[] if default == () else default,
        metavar=option["metavar"],
        help=option["meaning"] + told,
        **several,
    )


def run(args: argparse.Namespace) -> int:
    """Extract the bags and print what became of them."""
    from scene_completion_training.extraction.bag import Job, extract_bags, output_folders
    from scene_completion_training.extraction.reports import summary_table
    from scene_completion_training.workers import Workers

    cores = 1 if args.ray_address else (os.cpu_count() or 1) // max(1, args.workers) or 1
    threads = cores if args.threads is None else args.threads
    if args.workers < 1 or threads < 1:
        raise ConfigurationError("less than 1", where="--workers, --threads", cure="Give at least 1")
    settings = settings_of(args)
    bags = list(dict.fromkeys(Path(os.path.realpath(bag)) for bag in args.bags))  # of a link to itself it returns it
    folders = output_folders(bags, args.output.absolute())
    jobs = [Job(bag, folder, settings, threads) for bag, folder in zip(bags, folders, strict=True)]
    with Workers(args.workers, args.ray_address, threads) as workers:
        reports = extract_bags(jobs, workers)
    print(summary_table(reports))
    extracted = sum(bool(report.sequences) for report in reports)
    return 0 if extracted and (extracted == len(reports) or not args.strict) else 1


def _pairs(values: list[str], flag: str) -> tuple[tuple[str, str], ...]:
    """Split NAME=FILE."""
    pairs = []
    for value in values:
        name, equals, file = value.partition("=")
        if not (name and equals and file):
            raise ConfigurationError(f"{value!r} is no NAME=FILE", where=flag)
        pairs.append((name, str(Path(file).absolute())))
    return tuple(pairs)
