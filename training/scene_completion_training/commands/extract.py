"""Extract posed training sequences from bags.

DIR gets one folder a bag with
  00/, 01/, …   posed sequences: images, masks, LiDAR scans, and sequence.json with cameras and poses
  report.json   what was extracted, what was left out, and why
A bag whose folder exists is left alone, and counts as not extracted; --overwrite extracts it again.

Poses come from tf or odometry. The exit code is 0 when at least one sequence was extracted, otherwise 1.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from scene_completion_ros.commands.arguments import Output, add_rectified_argument
from scene_completion_ros.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion extract``."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag")
    parser.add_argument("--output", required=True, type=Output(()), metavar="DIR", help="folder for the sequences")
    meaning = "image topic (repeat it for several cameras; default: all that have a CameraInfo)"
    parser.add_argument("--image-topic", action="append", default=[], metavar="TOPIC", help=meaning)
    meaning = "calibration that replaces the CameraInfo of an image topic, a file as of complete --camera"
    parser.add_argument("--camera-file", action="append", default=[], metavar="TOPIC=FILE", help=meaning)
    add_rectified_argument(parser)
    meaning = "nav_msgs/Odometry (default: the only one); /odom=base_link names the frame of poses without "
    parser.add_argument("--odometry-topic", metavar="TOPIC[=FRAME]", help=f"{meaning}child_frame_id")
    parser.add_argument("--lidar-topic", metavar="TOPIC", help="PointCloud2 to keep (default: the only one)")
    parser.add_argument("--world-frame", metavar="FRAME", help="frame of the poses (default: the topmost in tf)")
    meaning = "frame whose z axis points up from the ground, such as map or base_footprint: gives how cameras stand"
    parser.add_argument("--ground-frame", metavar="FRAME", help=meaning)
    meaning = "height of the ground in --ground-frame, metres (default: %(default)s)"
    parser.add_argument("--ground-height", type=float, default=0.0, metavar="M", help=meaning)
    meaning = "seconds by which images of several cameras may be apart and make one frame (default: %(default)s)"
    parser.add_argument("--sync-tolerance", type=float, default=0.005, metavar="S", help=meaning)
    meaning = "distance of the frames that are kept, unless the rig turns by 5° (default: %(default)s)"
    parser.add_argument("--keyframe-metres", type=float, default=0.3, metavar="M", help=meaning)
    meaning = "image of the recorded size, white where this camera sees its own vehicle"
    parser.add_argument("--ego-mask", action="append", default=[], metavar="CAMERA=FILE", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Extract the bags and print what became of them."""
    from scene_completion_training.extraction.bag import Job, extract_bags, output_folders
    from scene_completion_training.extraction.finishing import ExtractionSettings
    from scene_completion_training.extraction.report import summary_table

    settings = ExtractionSettings(
        image_topics=tuple(args.image_topic),
        camera_files=_pairs(args.camera_file, "--camera-file"),
        rectified=args.rectified,
        odometry_topic=args.odometry_topic,
        lidar_topic=args.lidar_topic,
        world_frame=args.world_frame,
        ground_frame=args.ground_frame,
        ground_height=args.ground_height,
        sync_tolerance=args.sync_tolerance,
        keyframe_metres=args.keyframe_metres,
        ego_masks=_pairs(args.ego_mask, "--ego-mask"),
    )
    bags = list(dict.fromkeys(Path(os.path.realpath(bag)) for bag in args.bags))  # of a link to itself it returns it
    folders = output_folders(bags, args.output.absolute())
    reports = extract_bags([Job(*job, settings, args.overwrite) for job in zip(bags, folders, strict=True)])
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
