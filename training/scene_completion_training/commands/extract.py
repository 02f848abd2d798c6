"""Extract posed training sequences from bags.

DIR gets one folder a bag with
  00/, 01/, …   posed sequences: images, masks, LiDAR scans, and sequence.json with cameras and poses
  report.json   what was extracted, what was left out, and why
A bag that was extracted before, unchanged and with the same options, is left alone: an interrupted command goes on.
Where an extraction fails, an earlier one stays, and the report is NAME.failed.json next to its folder.

Poses come from tf or odometry; where a bag has none, from the images (structure from motion). Those have metres where
several cameras stand at known distances, or where odometry measured the way. They also have metres where
--camera-height gives the height of the first camera above the ground. Otherwise the sequence has `scale: unknown` and
training refuses it.

The exit code is 0 when at least one sequence exists, otherwise 1.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from scene_completion_ros.commands.arguments import Output
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.extraction.settings import BY_SET, ExtractionSettings

SETTINGS = {setting.name: setting for setting in fields(ExtractionSettings)}
SET = {name: setting for name, setting in SETTINGS.items() if setting.metadata["flag"] == BY_SET}
_PAIRS = ("calibration", "ego_masks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion extract``."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag")
    parser.add_argument("--output", required=True, type=Output(()), metavar="DIR", help="folder for the sequences")
    for name, setting in SETTINGS.items():
        if name in SET:
            continue
        option, several = setting.metadata, isinstance(setting.default, tuple)
        parser.add_argument(
            option["flag"],
            dest=name,
            type=float if option["limits"] else str,
            action="append" if several else "store",
            choices=option["choices"],
            default=[] if several else setting.default,
            metavar=option["metavar"],
            help=option["meaning"] + (f" (default: {setting.default})" if isinstance(setting.default, str) else ""),
        )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="see below; may be repeated")
    lines = [f"  {name}={setting.default}: {setting.metadata['meaning']}" for name, setting in SET.items()]
    parser.epilog = "\n".join(["values of --set:", *lines])
    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=int, default=1, help="bags at once on this machine (default: %(default)s)")
    work.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster that does the work instead, or `auto`")
    meaning = "threads a bag, for structure from motion (default: all cores, on a cluster one)"
    work.add_argument("--threads", type=int, help=meaning)


def settings_of(assignments: Sequence[str], **others: Any) -> ExtractionSettings:
    """Settings: others, and those of KEY=VALUE; a `ConfigurationError` where there are no such ones."""
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in SET:
            cure = f"There are {', '.join(SET)}"
            raise ConfigurationError(f"{assignment!r} is no KEY=VALUE of an extraction", where=BY_SET, cure=cure)
        default: Any = SET[name].default
        try:
            others[name] = text if default is None else type(default)(text)
        except ValueError as error:
            where = f"{BY_SET} {name}"
            raise ConfigurationError(f"{text!r} is no value of it", where=where, cure=f"As in {default}") from error
    return ExtractionSettings(**others)


def run(args: argparse.Namespace) -> int:
    """Extract the bags and print what became of them."""
    from scene_completion_training.extraction.bag import Job, extract_bags, output_folders
    from scene_completion_training.extraction.settings import summary_table

    cores = 1 if args.ray_address else (os.cpu_count() or 1) // max(1, args.workers) or 1
    threads = cores if args.threads is None else args.threads
    if args.workers < 1 or threads < 1:
        raise ConfigurationError("less than 1", where="--workers, --threads", cure="Give at least 1")
    given = {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    given["image_topics"] = tuple(args.image_topics)
    given |= {name: _pairs(given[name], SETTINGS[name].metadata["flag"]) for name in _PAIRS}
    settings = settings_of(args.set, **given)
    bags = list(dict.fromkeys(Path(os.path.realpath(bag)) for bag in args.bags))  # of a link to itself it returns it
    folders = output_folders(bags, args.output.absolute())
    jobs = [Job(bag, folder, settings, threads) for bag, folder in zip(bags, folders, strict=True)]
    reports = extract_bags(jobs, args.workers, args.ray_address)
    print(summary_table(reports))
    return 0 if any(report.sequences for report in reports) else 1


def _pairs(values: Sequence[str], flag: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for value in values:
        name, equals, file = value.partition("=")
        if not (name and equals and file):
            raise ConfigurationError(f"{value!r} is no NAME=FILE", where=flag)
        pairs.append((name, str(Path(file).absolute())))
    return tuple(pairs)
