"""`evaluate depth`: depth against the LiDAR of drives."""

from __future__ import annotations

import argparse
from pathlib import Path

from scene_completion_ros.commands.paths import RESULTS
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import (
    add_engine,
    add_models,
    add_paths,
    add_windows,
    check_recordings,
    open_models,
    refuse_scored,
    window_folders,
    write_results,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate depth``."""
    add_paths(
        parser,
        "--data",
        "DRIVE",
        "drives with LiDAR: DATE/DATE_drive_NNNN_sync of KITTI raw, folders in KITTI odometry's layout, "
        "data_2d_raw/DRIVE of KITTI-360, or sequence folders",
    )
    add_windows(parser)
    parser.add_argument(
        "--frames",
        type=Path,
        metavar="LIST",
        help="frame list with lines `drive frame side`, of which the left camera's are scored (default: every frame)",
    )
    add_models(parser)
    meaning = "score as well the mean LiDAR depth of each pixel over these drives, which must not be scored"
    add_paths(parser, "--mean-depth", "DRIVE", meaning)
    parser.add_argument("--output", type=RESULTS, metavar="DIR", help="takes results.json and results.md")
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Open, select, score, print and write."""
    from scene_completion_ros.evaluation.depth import DEPTH
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.sequences.frame_lists import read_frame_list
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.depth_evaluation import left_out_table, select_frames
    from scene_completion_training.evaluation.geometry import Density, MeanDepthModel, depth_frames

    _check_depth_arguments(args)
    listed = None if args.frames is None else read_frame_list(args.frames)
    folders = [*args.data, *window_folders(args)]
    selections, left_out = select_frames([open_recording(folder) for folder in folders], listed)
    models = open_models(args)
    if args.mean_depth:
        models.append(MeanDepthModel([open_recording(folder) for folder in args.mean_depth]))
    scores, methods = Scores([DEPTH]), [Density(model) for model in models]
    for selection in selections:
        scores.run("drives", methods, depth_frames(selection.sequence, selection.numbers))
    notes = [f"Frames that are left out: {len(left_out)}.\n\n{left_out_table(left_out)}"] if left_out else []
    write_results(args, scores, [selection.sequence.name for selection in selections], notes)
    return 0


def _check_depth_arguments(args: argparse.Namespace) -> None:
    check_recordings(args, "depth")
    if not (args.bundle or args.checkpoint or args.mean_depth):
        raise ConfigurationError(
            "nothing to score", where="evaluate depth", cure="Give --bundle, --checkpoint or --mean-depth"
        )
    if len({folder.resolve() for folder in args.data}) < len(args.data):
        raise ConfigurationError("a drive is named twice", where="--data", cure="Name each drive once")
    refuse_scored(args.data, {"--mean-depth": args.mean_depth})
