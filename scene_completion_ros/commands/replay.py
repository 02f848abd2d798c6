"""Replay a recording: completed voxels as a new recording, and a report to look at.

The images go through the running node over DDS, or with --offline through the same code without ROS. DIR gets
  bag/                the voxels and the legend of their labels (of the node also depth, map, obstacles) as rosbag2
  report/index.html   camera image, depth, and voxels as the camera sees them and in 3D, of every frame; opens offline
  statistics.json     frames, rate, latencies, memory
  scores.json, .md    where there is ground truth: IoU, precision, recall and average precision by range; depth errors
LiDAR of the recording is drawn into the 3D view, and depth is compared with it. What was written stays when the
replay is interrupted. Through the node, a replay is in lock step: the next image waits until the node has completed or
dropped the last one. No image is lost because the machine is slow, and two replays write the same recording.

Without BAG it is the bundled drive through a rendered town. A student that has a text bank is then asked for words,
which can be clicked in the report.

The exit code is 1 if no frame came out; of the bundled drive also if fewer than 80 % came out, or one came out empty.
"""

import argparse
import os
from pathlib import Path

from scene_completion_ros.commands import arguments
from scene_completion_ros.commands.arguments import Output, add_student_arguments, add_words_argument, place

RESULTS = Output(
    ("bag", "report", "statistics.json", "scores.json", "scores.md"),
    inside=("bag/metadata.yaml", "bag/bag*.mcap", "report/index.html", "report/frames/[0-9]*"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion replay``."""
    meaning = "rosbag2 folder, .mcap, .db3, or ROS 1 .bag (default: the bundled drive)"
    parser.add_argument("bag", type=Path, nargs="?", metavar="BAG", help=meaning)
    parser.add_argument("--offline", action="store_true", help="without ROS, in this process")
    parser.add_argument("--image-topic", metavar="TOPIC", help="which images, where the recording has several topics")
    meaning = "calibration instead of the recorded CameraInfo: a file as of complete --camera"
    parser.add_argument("--camera", type=place, metavar="FILE", help=meaning)
    arguments.add_rectified_argument(parser)
    parser.add_argument("--output", type=RESULTS, default=Path("replay"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th image (default: %(default)s)")
    add_student_arguments(parser)
    meaning = "voxels wanted, as in the node's parameter grid.file (default: the grid of the bundle)"
    parser.add_argument("--grid", type=Path, metavar="FILE", help=meaning)
    arguments.add_scale_argument(
        parser, "the odometry or the tf of the recording", None, "corners, or the choice of --params-file"
    )
    add_words_argument(
        parser, "can be clicked in the report", "none; of the bundled drive " + ", ".join(arguments.DEMO_WORDS)
    )
    group = parser.add_argument_group("playing through the node (not with --offline)")
    group.add_argument(
        "--params-file",
        type=Path,
        metavar="FILE",
        help="parameters of the node that is started, as a robot has them (/** and scene_completion of any namespace). "
        "The replay leaves out bundle, engine, grid, the source of transforms and what it needs itself",
    )
    group = parser.add_argument_group("ground truth (the LiDAR of the recording is used by itself)")
    group.add_argument(
        "--ground-truth",
        type=Path,
        metavar="PATH",
        help="score voxels and depth against this folder: a drive of scene-completion world, KITTI or "
        "KITTI-360. Stamps say which frames belong together",
    )
    meaning = "added to the stamps of the folder (default: %(default)s)"
    group.add_argument("--ground-truth-offset", type=float, default=0.0, metavar="SECONDS", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Replay the recording, and say in the exit code whether it went well."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported, as in the node
    from scene_completion_ros.progress import Progress

    progress = Progress()
    progress.line(f"Opening {args.bag or 'the bundled drive'} ...")
    from scene_completion_ros.commands.replaying import replay

    return replay(args, progress)
