"""`evaluate occupancy`: exact ground truth and both LiDAR protocols, beside the controls to beat."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.paths import RESULTS
from scene_completion_ros.errors import ConfigurationError, SequenceError
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

if TYPE_CHECKING:
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.evaluation.density_model import DensityModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate occupancy``."""
    meaning = "towns of street-world, folders in KITTI odometry's layout, or data_2d_raw/DRIVE of KITTI-360"
    add_paths(parser, "--data", "FOLDER", meaning)
    add_windows(parser)
    add_models(parser)
    meaning = "fit calibration and threshold of every model on these recordings first, which must not be scored"
    add_paths(parser, "--calibrate-on", "FOLDER", meaning)
    parser.add_argument(
        "--controls",
        action="store_true",
        help="score controls as well: nothing, surfaces, and the prior of the training set. Surfaces are those of the "
        "best depth there is and of the first model's own depth, as they are and thickened by 4 m",
    )
    meaning = "towns of the training set, whose mean voxels are the prior on towns; KITTI windows have their own"
    add_paths(parser, "--prior", "FOLDER", meaning)
    parser.add_argument(
        "--prior-voxels",
        choices=("exact", "stereo"),
        default="exact",
        help="what the prior of --prior averages: the towns' exact voxels, or those fused from their stereo depth, "
        "which is all that training knows. The latter has the threshold of --calibrate-on if given (default: "
        "%(default)s)",
    )
    parser.add_argument("--scans", type=int, default=20, help="scans the LiDAR protocols accumulate (default: 20)")
    parser.add_argument(
        "--every", type=int, default=5, metavar="N", help="score every N-th frame (default: %(default)s)"
    )
    parser.add_argument(
        "--camera-pitch",
        type=float,
        metavar="DEGREES",
        help="how far the camera looks down (default: 5 on KITTI-360, else 0)",
    )
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes results.json and .md")
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Open, calibrate, score, print and write."""
    import math

    from scene_completion_ros.evaluation.calibration import CALIBRATION
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.occupancy import OCCUPANCY
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.geometry import Density, ScoredFrames, calibrate_model, voxel_frames
    from scene_completion_training.evaluation.lidar_evaluation import LIDAR_OCCUPANCY

    _check_occupancy_arguments(args)
    windows = window_folders(args)
    recordings = [open_recording(folder) for folder in (*args.data, *windows)]
    models = open_models(args)
    validation = [open_recording(folder) for folder in args.calibrate_on]
    if validation:
        models = [calibrate_model(model, voxel_frames(validation, args.every)) for model in models]
    controls = _controls(args, models, windows[0].parent if windows else None, validation)
    frames = ScoredFrames(
        args.scans, args.every, None if args.camera_pitch is None else math.radians(args.camera_pitch)
    )
    scores, counted = Scores([OCCUPANCY, CALIBRATION, LIDAR_OCCUPANCY]), 0
    for sequence in recordings:
        methods = [Density(model) for model in (*models, *controls(sequence))]
        counted += scores.run("recordings", methods, frames.of(sequence))
    names = [sequence.name for sequence in recordings]
    if not counted:
        raise SequenceError(
            "no frame has ground truth voxels or LiDAR",
            where=", ".join(names),
            cure="Render the town with its assets, or name recordings with LiDAR",
        )
    write_results(args, scores, names)
    return 0


def _check_occupancy_arguments(args: argparse.Namespace) -> None:
    check_recordings(args, "occupancy")
    if not (args.bundle or args.checkpoint or args.controls):
        raise ConfigurationError(
            "nothing to score", where="evaluate occupancy", cure="Give --bundle, --checkpoint or --controls"
        )
    if args.scans < 3 or args.every < 1:
        raise ConfigurationError(
            f"{args.scans} scans, every {args.every} frames",
            where="--scans, --every",
            cure="Accumulate at least 3 scans, and score every frame or fewer",
        )
    refuse_scored(args.data, {"--calibrate-on": args.calibrate_on, "--prior": args.prior})


def _controls(
    args: argparse.Namespace, models: list[DensityModel], windows: Path | None, validation: list[PosedSequence]
) -> Callable[[PosedSequence], list[DensityModel]]:
    """The controls of a recording: towns have the prior of training towns, windows that of the training windows."""
    from scene_completion_ros.sequences import kitti
    from scene_completion_ros.sequences.opening import holds_voxels, open_recording
    from scene_completion_training.evaluation.controls import (
        EmptyControl,
        fit_prior,
        prior_of_windows,
        surface_controls,
    )
    from scene_completion_training.evaluation.geometry import calibrate_model, voxel_frames
    from scene_completion_training.evaluation.stereo_truth import stereo_truths

    town_prior: list[DensityModel] = []
    if args.controls and args.prior:
        towns = [open_recording(folder) for folder in args.prior]
        if args.prior_voxels == "exact":
            found = (frame.truth.voxels for frame in voxel_frames(towns))
            town_prior = [fit_prior(truth for truth in found if truth is not None)]
        else:
            prior: DensityModel = fit_prior(truth for town in towns for truth in stereo_truths(town))
            town_prior = [calibrate_model(prior, voxel_frames(validation, args.every)) if validation else prior]
    window_prior = prior_of_windows(windows) if args.controls and windows is not None else None

    def controls(sequence: PosedSequence) -> list[DensityModel]:
        if not args.controls:
            return []
        own: list[DensityModel] = [EmptyControl(), *surface_controls(sequence, models[0] if models else None)]
        if window_prior is not None and holds_voxels(sequence, source=kitti.SOURCE):
            return [*own, window_prior(sequence)]
        return [*own, *town_prior]

    return controls
