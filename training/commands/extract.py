"""Extract posed training sequences from bags.

DIR gets one folder a bag with
  00/, 01/, …   posed sequences: images, masks, and sequence.json with cameras and poses
  report.json   what was extracted, what was left out, and why
A bag that was extracted before, unchanged and with the same options, is left alone: an interrupted command goes on.

Poses come from tf or odometry; where a bag has none, from the images (structure from motion). Those have metres where
several cameras stand at known distances, where odometry says how far the rig went, or where --camera-height says how
far below the first camera the ground is. Otherwise the sequence says `scale: unknown` and training refuses it.

The exit code is 0 when at least one sequence exists (with --strict: when every bag gave one), otherwise 1.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion extract``."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the sequences")
    source = parser.add_argument_group("what to use")
    source.add_argument(
        "--image-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="image topic (repeat it for several cameras; default: all that have a CameraInfo)",
    )
    source.add_argument(
        "--camera-file",
        action="append",
        default=[],
        metavar="TOPIC=FILE",
        help="calibration that replaces the CameraInfo of an image topic: YAML of camera_calibration, calib.txt:P2",
    )
    source.add_argument("--odometry-topic", metavar="TOPIC", help="nav_msgs/Odometry (default: the only one)")
    source.add_argument("--lidar-topic", metavar="TOPIC", help="PointCloud2 to keep (default: the only one)")
    source.add_argument("--world-frame", metavar="FRAME", help="frame of the poses (default: the topmost in tf)")
    source.add_argument(
        "--sync-tolerance",
        type=float,
        default=0.005,
        metavar="S",
        help="images of several cameras no further apart make one frame (default: %(default)s)",
    )
    _add_pose_arguments(parser.add_argument_group("poses and scale"))
    _add_image_arguments(parser.add_argument_group("frames and images"))
    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=int, default=1, help="bags at once on this machine (default: %(default)s)")
    work.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster that does the work instead, or `auto`")
    work.add_argument("--threads", type=int, help="threads a bag, for structure from motion (default: all cores)")
    work.add_argument("--strict", action="store_true", help="fail when any bag gave nothing")


def _add_pose_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--poses",
        choices=("auto", "recorded", "sfm"),
        default="auto",
        help="tf or odometry, structure from motion, or the first that works (default: %(default)s)",
    )
    group.add_argument(
        "--camera-height", type=float, metavar="M", help="height of the first camera above the ground, for the scale"
    )
    group.add_argument(
        "--pose-gap",
        type=float,
        default=0.2,
        metavar="S",
        help="longest time between two poses that is interpolated (default: %(default)s)",
    )
    group.add_argument(
        "--split-gap",
        type=float,
        default=2.0,
        metavar="S",
        help="a longer time without images or poses begins another sequence (default: %(default)s)",
    )
    group.add_argument(
        "--sfm-width",
        type=int,
        default=800,
        metavar="PIXELS",
        help="width of the images for structure from motion (default: %(default)s)",
    )


def _add_image_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--keyframe-metres", type=float, default=0.3, metavar="M", help="distance of keyframes (default: %(default)s)"
    )
    group.add_argument(
        "--keyframe-degrees", type=float, default=5.0, metavar="DEG", help="or their angle (default: %(default)s)"
    )
    group.add_argument(
        "--min-frames", type=int, default=5, metavar="N", help="fewest keyframes of a sequence (default: %(default)s)"
    )
    group.add_argument(
        "--keep-distortion", action="store_true", help="keep images and lens models as recorded, do not rectify"
    )
    group.add_argument(
        "--max-fov",
        type=float,
        default=100.0,
        metavar="DEG",
        help="widest view of a rectified fisheye (default: %(default)s)",
    )
    group.add_argument(
        "--ego-mask",
        action="append",
        default=[],
        metavar="CAMERA=FILE",
        help="image of the recorded size, white where this camera sees its own vehicle",
    )
    group.add_argument(
        "--estimate-ego-masks",
        action="store_true",
        help="find the own vehicle by its not changing (look at the result: assets/ego_CAMERA)",
    )


def run(args: argparse.Namespace) -> int:
    """Extract the bags and print what became of them."""
    from scene_completion_ros.errors import ConfigurationError
    from scene_completion_training.extraction.bag import Job
    from scene_completion_training.extraction.many_bags import extract_bags, output_folders
    from scene_completion_training.extraction.reports import summary_table
    from scene_completion_training.extraction.settings import ExtractionSettings

    threads = args.threads if args.threads is not None else (os.cpu_count() or 1) // max(1, args.workers) or 1
    if args.workers < 1 or threads < 1:
        raise ConfigurationError("less than 1", where="--workers, --threads", cure="Give at least 1")
    settings = ExtractionSettings(
        image_topics=tuple(args.image_topic),
        calibration=_pairs(args.camera_file, "--camera-file"),
        odometry_topic=args.odometry_topic,
        world_frame=args.world_frame,
        lidar_topic=args.lidar_topic,
        poses=args.poses,
        pose_gap_s=args.pose_gap,
        split_gap_s=args.split_gap,
        sync_tolerance_s=args.sync_tolerance,
        keyframe_metres=args.keyframe_metres,
        keyframe_degrees=args.keyframe_degrees,
        min_frames=args.min_frames,
        rectify=not args.keep_distortion,
        max_fov_degrees=args.max_fov,
        ego_masks=_pairs(args.ego_mask, "--ego-mask"),
        estimate_ego_masks=args.estimate_ego_masks,
        camera_height=args.camera_height,
        sfm_width=args.sfm_width,
    )
    bags = list({bag.resolve(): bag for bag in args.bags}.values())
    folders = output_folders(bags, args.output.resolve())
    jobs = [Job(bag.resolve(), folder, settings, threads) for bag, folder in zip(bags, folders, strict=True)]
    reports = extract_bags(jobs, workers=args.workers, ray_address=args.ray_address)
    print(summary_table(reports))
    extracted = sum(bool(report.sequences) for report in reports)
    return 0 if extracted and (extracted == len(reports) or not args.strict) else 1


def _pairs(values: list[str], flag: str) -> tuple[tuple[str, str], ...]:
    """Split NAME=FILE."""
    from scene_completion_ros.errors import ConfigurationError

    pairs = []
    for value in values:
        name, equals, file = value.partition("=")
        if not (name and equals and file):
            raise ConfigurationError(f"{value!r} is no NAME=FILE", where=flag)
        pairs.append((name, str(Path(file).resolve())))
    return tuple(pairs)
