"""`evaluate geometry`: occupancy by exact ground truth and both LiDAR protocols, or depth against LiDAR.

Bundles and checkpoints are scored with the controls that a completion has to beat: on towns of the street world
(exact ground truth), on KITTI windows and on drives with LiDAR (LiDAR protocols). With --depth their depth is compared
with the LiDAR of drives, on all frames or on those of a frame list: so the Eigen split of KITTI is evaluated. With
--turned the plane of the road is scored, and how it follows where pictures are turned. With
--profiles nothing is scored: pictures show their densities from above, next to each other and to the truth.
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from scene_completion_ros.commands.arguments import add_scale_argument
from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.progress import print_lines
from scene_completion_training.commands import arguments

if TYPE_CHECKING:
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.evaluation.predictor import Predictor

EVERY = 5  # of which frames voxels are scored by default; depth is scored of all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate geometry``."""
    meaning = "towns of world street, folders in KITTI odometry's layout, or data_2d_raw/DRIVE of KITTI-360, bags and "
    meaning += "what is extracted from them, with LiDAR; for depth also DATE/DATE_drive_NNNN_sync of KITTI raw"
    arguments.add_paths(parser, "--data", "FOLDER", meaning)
    arguments.add_windows(parser)
    arguments.add_paths(parser, "--bundle", "DIR", "student bundles to score")
    arguments.add_checkpoints(parser)
    add_scale_argument(parser, arguments.POSES, "off")
    meaning = "score bodies as well: how much longer than in truth cars, persons, poles, trunks, furniture are along "
    parser.add_argument("--bodies", action="store_true", help=meaning + "the camera's rays")
    parser.add_argument("--depth", action="store_true", help="score depth against LiDAR instead of voxels")
    meaning = "score the plane of the road instead, and by how much it follows where pictures are turned by 2° and 1°"
    parser.add_argument("--turned", action="store_true", help=meaning)
    meaning = "draw profiles as KDBTS does, profile_RECORDING_FRAME.png: density 3 to 23 m ahead and down to 1 m below "
    parser.add_argument("--profiles", action="store_true", help=meaning + "the camera, from above")
    arguments.add_frames(parser)
    meaning = "fit calibration and threshold of every model on these recordings first, which must not be scored"
    arguments.add_paths(parser, "--calibrate-on", "FOLDER", meaning)
    meaning = "score controls as well: nothing, surfaces, and the prior of the training set. Surfaces are those of the "
    meaning += "best depth there is and of the first model's own depth, also thickened by 4 m"
    parser.add_argument("--controls", action="store_true", help=meaning)
    meaning = "training recordings for the prior: towns, whose mean voxels are the prior on towns (KITTI windows have "
    arguments.add_paths(parser, "--prior", "FOLDER", meaning + "their own)")
    arguments.add_number(parser, "--scans", 20, "scans the LiDAR protocols accumulate", least=3)
    arguments.add_number(parser, "--every", None, f"score every N-th frame (default: {EVERY}, with --depth 1)")
    meaning = "score this frame of each recording alone, against the voxels of its first one: with earlier frames, as "
    meaning += "--scale-from needs them"
    arguments.add_number(parser, "--at", None, meaning, least=0)
    arguments.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Open, calibrate, score, print and write."""
    if args.every is None:
        args.every = 1 if args.depth else EVERY
    _check(args)
    if args.profiles:
        return _draw_profiles(args)
    if args.turned:
        return _run_turned(args)
    return _run_depth(args) if args.depth else _run_voxels(args)


def _draw_profiles(args: argparse.Namespace) -> int:
    from scene_completion_ros.report.pictures import write_picture
    from scene_completion_training.evaluation.geometry import chosen_frames
    from scene_completion_training.evaluation.profiles import profile_picture

    recordings, split, _ = arguments.open_listed(args)
    models = arguments.open_models(args)
    for sequence in recordings:
        for index in chosen_frames(sequence, split, args.every, args.at):
            file = args.output / f"profile_{sequence.name.replace('/', '_')}_{index:06d}.png"
            write_picture(file, profile_picture(sequence, index, models))
            print_lines(file.name)
    return 0


def _run_depth(args: argparse.Namespace) -> int:
    from scene_completion_ros.evaluation.depth import DEPTH
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_training.evaluation.geometry import depth_frames, scanned_frames

    split = arguments.read_frames(args.frames)
    recordings = arguments.open_recordings([*args.data, *arguments.window_folders(args)], split)
    names = [sequence.name for sequence in recordings]
    scanned = [(sequence, scanned_frames(sequence, split)) for sequence in recordings]
    counted = arguments.count_frames(args, split)
    if not any(indices for _, indices in scanned):
        raise SequenceError("no frame has a LiDAR scan", where=", ".join(names), cure="Unpack the scans, too")
    models = arguments.open_models(args)
    scores = Scores([DEPTH])
    for sequence, indices in scanned:
        scores.run("drives", models, depth_frames(sequence, indices[:: args.every]))
    arguments.write_results(args, scores, names, counted=counted)
    return 0


def _run_turned(args: argparse.Namespace) -> int:
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.progress import watched
    from scene_completion_training.evaluation.geometry import chosen_frames
    from scene_completion_training.evaluation.road_slope import SLOPE, road_frames, slopes

    recordings, split, found = arguments.open_listed(args)
    models, scores = arguments.open_models(args), Scores([SLOPE])
    for sequence in recordings:
        chosen = chosen_frames(sequence, split, args.every, args.at)
        for frame in watched(road_frames(sequence, chosen), "frame"):
            for model in models:
                scores.add("recordings", model, slopes(model, frame))
    names = [sequence.name for sequence in recordings]
    if not scores.to_json():
        what, cure = "no frame has a road that LiDAR or exact depth knows", "Unpack the LiDAR scans, or name others"
        raise SequenceError(what, where=", ".join(names), cure=cure)
    arguments.write_results(args, scores, names, counted=found)
    return 0


def _run_voxels(args: argparse.Namespace) -> int:
    from scene_completion_ros.evaluation.bodies import BODIES
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.obstacles import OBSTACLES
    from scene_completion_ros.evaluation.occupancy import CALIBRATION, OCCUPANCY
    from scene_completion_ros.sequences.posed_sequence import check_rig
    from scene_completion_training.evaluation.geometry import calibrate, scored_frames, voxel_frames
    from scene_completion_training.evaluation.lidar_evaluation import LIDAR_OCCUPANCY

    recordings, split, found = arguments.open_listed(args)
    for sequence in recordings:
        check_rig(sequence, sequence.name)
    models = arguments.open_models(args)
    validation = arguments.open_recordings(args.calibrate_on)
    for model in models if validation else ():
        calibrate(model, voxel_frames(validation, args.every))
    controls = _controls(args, models)
    metrics = [OCCUPANCY, OBSTACLES, *([BODIES] if args.bodies else ()), CALIBRATION, LIDAR_OCCUPANCY]
    scores, counted = Scores(metrics), 0
    for sequence in recordings:
        frames = scored_frames(sequence, args.every, scans=args.scans, split=split, at=args.at)
        counted += scores.run("recordings", [*models, *controls(sequence)], frames)
    names = [sequence.name for sequence in recordings]
    if not counted:
        cure = "Unpack the LiDAR scans next to the images, render the town with its assets, or name other recordings"
        raise SequenceError("no frame has ground truth voxels or LiDAR", where=", ".join(names), cure=cure)
    arguments.write_results(args, scores, names, counted=found)
    return 0


def _check(args: argparse.Namespace) -> None:
    arguments.check_recordings(args, "geometry")
    if not (args.bundle or args.checkpoint or args.controls):
        what = "nothing to score"
        raise ConfigurationError(what, where="evaluate geometry", cure="Give --bundle, --checkpoint or --controls")
    if args.profiles and (args.depth or args.controls or args.bodies):
        what, cure = "draws models, and scores nothing", "Leave out --depth, --controls and --bodies"
        raise ConfigurationError(what, where="--profiles", cure=cure)
    if args.turned and (args.depth or args.profiles):
        raise ConfigurationError("scores the road", where="--turned", cure="Leave out --depth and --profiles")
    for option in ("bodies", "controls"):
        if (args.depth or args.turned) and getattr(args, option):
            raise ConfigurationError("are of voxels", where=f"--{option}", cure="Leave out --depth and --turned")
    if len({folder.resolve() for folder in args.data}) < len(args.data):
        raise ConfigurationError("a recording is named twice", where="--data", cure="Name each once")
    arguments.refuse_scored(args.data, {"--calibrate-on": args.calibrate_on, "--prior": args.prior})


def _controls(args: argparse.Namespace, models: "list[Predictor]") -> "Callable[[PosedSequence], list[Predictor]]":
    """The controls of a recording: towns have the prior of training towns, windows that of the training windows."""
    from scene_completion_ros.sequences import kitti
    from scene_completion_ros.sequences.opening import holds_voxels
    from scene_completion_training.evaluation import geometry

    town_prior: list[Predictor] = []
    if args.controls and args.prior:
        frames = geometry.voxel_frames(arguments.open_recordings(args.prior))
        town_prior = [geometry.PriorControl(*geometry.fit_prior(frame.voxels for frame in frames))]
    windows = arguments.window_folders(args)
    window_prior = geometry.prior_of_windows(windows[0].parent) if args.controls and windows else None

    def of_recording(sequence: "PosedSequence") -> "list[Predictor]":
        if not args.controls:
            return []
        first = models[0] if models else None
        own: list[Predictor] = [geometry.EmptyControl(), *geometry.surface_controls(sequence, first)]
        if window_prior is not None and holds_voxels(sequence, source=kitti.SOURCE):
            return [*own, window_prior(sequence)]
        return [*own, *town_prior]

    return of_recording
