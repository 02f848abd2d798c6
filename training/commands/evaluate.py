"""Score a student or checkpoint: depth and voxels of KITTI windows, occupancy with its controls, depth of whole drives.

`evaluate kitti` scores a bundle on recorded KITTI windows beside what knows no image: the mean LiDAR depth of each
pixel, the smoothed prior grid of the training windows and the empty field. With --fit-calibration the map from opacity
to probability and the threshold are fitted on a window first and written into the bundle.

`evaluate occupancy` scores bundles and checkpoints on towns of the street world (exact ground truth), on KITTI windows
and on drives of KITTI-360 (LiDAR protocols), beside the controls that a completion has to beat.

`evaluate depth` scores the depth of bundles and checkpoints against the LiDAR of drives, as the Eigen split of KITTI is
evaluated, on all frames or on those of a frame list.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from training.evaluation.density_model import DensityModel

BEGIN, END = "<!-- begin: scene-completion evaluate -->", "<!-- end: scene-completion evaluate -->"
SHARED_DATA = "SCENE_COMPLETION_DATA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate``."""
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    kitti = protocols.add_parser("kitti", help="depth against LiDAR and voxels against semantic voxels, KITTI windows")
    add_kitti_arguments(kitti)
    kitti.set_defaults(run_protocol=run_kitti)
    occupancy = protocols.add_parser("occupancy", help="occupancy: exact ground truth and both LiDAR protocols")
    add_occupancy_arguments(occupancy)
    occupancy.set_defaults(run_protocol=run_occupancy)
    depth = protocols.add_parser("depth", help="depth against LiDAR on drives, as the Eigen split of KITTI")
    add_depth_arguments(depth)
    depth.set_defaults(run_protocol=run_depth)


def run(args: argparse.Namespace) -> int:
    """Run the protocol that was asked for."""
    code: int = args.run_protocol(args)
    return code


def add_kitti_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate kitti``."""
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="student bundle (default: the one that is shipped)")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get(SHARED_DATA),
        metavar="DIR",
        help="folder that holds kitti_windows (default: $SCENE_COMPLETION_DATA)",
    )
    parser.add_argument("--windows", nargs="*", metavar="NAME", help="windows to score (default: 06 09)")
    parser.add_argument(
        "--fit-calibration",
        metavar="NAME",
        help="fit the calibration and the threshold on this window and write them into the bundle; scores nothing "
        "unless --windows is given",
    )
    parser.add_argument("--baselines-only", action="store_true", help="score the baselines alone, without a student")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="FILE.json takes all scores; any other file is Markdown, whose section between the marks "
        f'"{BEGIN}" and "{END}" is replaced, or added at the end',
    )
    _add_engine(parser)


def add_occupancy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate occupancy``."""
    parser.add_argument(
        "--data",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="towns of street-world, folders in KITTI odometry's layout, or data_2d_raw/DRIVE of KITTI-360",
    )
    parser.add_argument(
        "--windows", nargs="+", default=[], metavar="NAME", help=f"KITTI windows under ${SHARED_DATA}, e.g. 06 09"
    )
    _add_models(parser)
    parser.add_argument(
        "--calibrate-on",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="fit calibration and threshold of every model on these recordings first, which must not be scored",
    )
    parser.add_argument(
        "--controls",
        action="store_true",
        help="score as well: nothing; the surface of the best depth there is and of the first model's own depth, as it "
        "is and thickened by 4 m; the prior of the training set",
    )
    parser.add_argument(
        "--prior",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="towns of the training set, whose mean voxels are the prior on towns; KITTI windows have their own",
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
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="takes results.json, .md and plots")
    _add_engine(parser)


def add_depth_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate depth``."""
    parser.add_argument(
        "--data",
        nargs="+",
        type=Path,
        required=True,
        metavar="DRIVE",
        help="drives with LiDAR: DATE/DATE_drive_NNNN_sync of KITTI raw, folders in KITTI odometry's layout, "
        "data_2d_raw/DRIVE of KITTI-360, or sequence folders",
    )
    parser.add_argument(
        "--frames",
        type=Path,
        metavar="LIST",
        help="frame list with lines `drive frame side`, of which the left camera's are scored (default: every frame)",
    )
    _add_models(parser)
    parser.add_argument(
        "--mean-depth",
        type=Path,
        nargs="+",
        default=[],
        metavar="DRIVE",
        help="score as well the mean LiDAR depth of each pixel over these drives, which must not be scored",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="takes results.json and results.md")
    _add_engine(parser)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, nargs="+", default=[], metavar="DIR", help="student bundles to score")
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", default=[], metavar="FILE", help="training checkpoints to score"
    )
    parser.add_argument(
        "--views", type=int, nargs="+", default=[1], metavar="N", help="views that each checkpoint encodes (default: 1)"
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        default="auto",
        help="what runs the encoder: auto, openvino, openvino_bf16, onnxruntime (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="threads of the encoder (default: all)")


def run_kitti(args: argparse.Namespace) -> int:
    """Fit, score, print and write."""
    import json

    from scene_completion_ros.errors import SequenceError
    from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle
    from training.evaluation.kitti import TEST_WINDOWS, TRAINING_WINDOWS, fit_baselines, open_window, score_window
    from training.evaluation.student import calibrate, student_method
    from training.evaluation.tables import as_json, markdown

    if args.data is None:
        raise SequenceError("no data folder given", where="--data", cure=f"Name it, or set {SHARED_DATA}")
    data = Path(args.data)
    names = args.windows if args.windows is not None else [] if args.fit_calibration else list(TEST_WINDOWS)
    methods = {}
    if not args.baselines_only:
        bundle = StudentBundle.load(args.bundle) if args.bundle else load_default_bundle()
        if args.fit_calibration:
            if not args.bundle:
                raise SequenceError(
                    "no bundle named to write into",
                    where="--fit-calibration",
                    cure="Name it with --bundle: the installed one is not rewritten silently",
                )
            if args.fit_calibration in (*TEST_WINDOWS, *TRAINING_WINDOWS):
                raise SequenceError(
                    f"window {args.fit_calibration} is used for training or testing",
                    where="--fit-calibration",
                    cure="Fit on a window that is used for nothing else",
                )
            bundle = calibrate(
                bundle, open_window(data, args.fit_calibration), engine=args.engine, threads=args.threads
            )
            knots = len(bundle.calibration.alpha)
            print(f"{bundle.folder}: calibration with {knots} knots, threshold {bundle.threshold:.4f}")
        methods["student"] = student_method(bundle, engine=args.engine, threads=args.threads)
    if not names:
        return 0
    baselines = fit_baselines(data)
    scores = [score_window(open_window(data, name), methods, baselines) for name in names]
    text = markdown(scores)
    print(text)
    if args.output is not None and args.output.suffix == ".json":
        args.output.write_text(json.dumps(as_json(scores), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    elif args.output is not None:
        command = f"scene-completion evaluate kitti --windows {' '.join(names)}"
        write_section(args.output, f"Made by `{command}`.\n\n{text}")
    return 0


def run_occupancy(args: argparse.Namespace) -> int:
    """Open, calibrate, score, print and write."""
    import math

    from training.evaluation.occupancy_plots import FrameProfiles, write_plots
    from training.evaluation.occupancy_run import RunSettings, calibrate_model, evaluate, open_recording
    from training.evaluation.occupancy_tables import as_json, markdown

    _check_occupancy_arguments(args)
    data = os.environ.get(SHARED_DATA)
    windows = [Path(data or "") / "kitti_windows" / "sequences" / name for name in args.windows]
    recordings = [open_recording(folder) for folder in (*args.data, *windows)]
    models = _models(args)
    if args.calibrate_on:
        validation = [open_recording(folder) for folder in args.calibrate_on]
        models = [calibrate_model(model, validation, args.every) for model in models]
    evaluated = [model.name for model in models]
    controls = _controls(args, models, Path(data) if data and args.windows else None)
    pitch = None if args.camera_pitch is None else math.radians(args.camera_pitch)
    args.output.mkdir(parents=True, exist_ok=True)
    result = evaluate(
        recordings,
        lambda sequence: [*models, *controls(sequence)],
        RunSettings(args.scans, args.every, pitch),
        FrameProfiles(args.output, pitch),
    )
    text = markdown(result, evaluated)
    print(text)
    _write_results(args.output, as_json(result, _asked(args)), text)
    if result.exact is not None:
        write_plots(args.output, result.exact, evaluated)
    return 0


def run_depth(args: argparse.Namespace) -> int:
    """Open, select, score, print and write."""
    from scene_completion_ros.sequences.frame_lists import read_frame_list
    from training.evaluation.depth_evaluation import (
        as_json,
        evaluate_depth,
        fit_mean_depth,
        markdown,
        open_drive,
        select_frames,
    )

    _check_depth_arguments(args)
    listed = None if args.frames is None else read_frame_list(args.frames)
    selections, left_out = select_frames([open_drive(folder) for folder in args.data], listed)
    models = _models(args)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
    mean = fit_mean_depth(open_drive(folder) for folder in args.mean_depth) if args.mean_depth else None
    result = evaluate_depth(selections, models, mean, left_out)
    text = markdown(result)
    print(text)
    if args.output is not None:
        _write_results(args.output, as_json(result, _asked(args)), text)
    return 0


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """What a run was asked for, as plain values."""
    return {
        name: [str(entry) for entry in value] if isinstance(value, list) else str(value)
        for name, value in vars(args).items()
        if name not in ("command", "protocol", "run_protocol", "output") and value not in (None, [])
    }


def _write_results(folder: Path, content: dict[str, Any], text: str) -> None:
    import json

    plain = json.dumps(content, indent=2, allow_nan=False)
    (folder / "results.json").write_text(plain + "\n", encoding="utf-8")
    (folder / "results.md").write_text(text, encoding="utf-8")


def _check_occupancy_arguments(args: argparse.Namespace) -> None:
    from scene_completion_ros.errors import ConfigurationError

    if not (args.data or args.windows):
        raise ConfigurationError("nothing to score on", where="evaluate occupancy", cure="Give --data or --windows")
    if args.windows and not os.environ.get(SHARED_DATA):
        raise ConfigurationError("its folder is not known", where="--windows", cure=f"Set {SHARED_DATA}")
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
    _refuse_scored(args.data, {"--calibrate-on": args.calibrate_on, "--prior": args.prior})


def _check_depth_arguments(args: argparse.Namespace) -> None:
    from scene_completion_ros.errors import ConfigurationError

    if not (args.bundle or args.checkpoint or args.mean_depth):
        raise ConfigurationError(
            "nothing to score", where="evaluate depth", cure="Give --bundle, --checkpoint or --mean-depth"
        )
    if len({folder.resolve() for folder in args.data}) < len(args.data):
        raise ConfigurationError("a drive is named twice", where="--data", cure="Name each drive once")
    _refuse_scored(args.data, {"--mean-depth": args.mean_depth})


def _refuse_scored(scored: Sequence[Path], others: dict[str, list[Path]]) -> None:
    """Raise where the folders of an argument are scored as well.

    Args:
        scored: What is scored.
        others: Argument -> its folders.
    """
    from scene_completion_ros.errors import ConfigurationError

    for flag, folders in others.items():
        if shared := {folder.resolve() for folder in scored} & {folder.resolve() for folder in folders}:
            raise ConfigurationError(
                f"{', '.join(map(str, sorted(shared)))} is scored as well", where=flag, cure="Name other recordings"
            )


def _models(args: argparse.Namespace) -> list[DensityModel]:
    from scene_completion_ros.errors import ConfigurationError
    from scene_completion_ros.inference.bundle import StudentBundle
    from training.evaluation.checkpoints import open_checkpoint
    from training.evaluation.deployed_model import DeployedModel

    models: list[DensityModel] = [
        DeployedModel(StudentBundle.load(folder), folder.name, engine=args.engine, threads=args.threads)
        for folder in args.bundle
    ]
    models += [model for path in args.checkpoint for model in open_checkpoint(path, args.views)]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"equal names {names}", where="--bundle, --checkpoint", cure="Rename a folder or file")
    return models


def _controls(
    args: argparse.Namespace, models: list[DensityModel], data: Path | None
) -> Callable[[PosedSequence], list[DensityModel]]:
    """The controls of a recording: towns have the prior of training towns, windows that of the training windows."""
    from training.evaluation.controls import EmptyControl, fit_prior, prior_of_windows, surface_controls
    from training.evaluation.occupancy_run import exact_frames, open_recording

    town_prior: list[DensityModel] = []
    if args.controls and args.prior:
        towns = [open_recording(folder) for folder in args.prior]
        town_prior = [fit_prior(truth for town in towns for _, truth in exact_frames(town, every=1))]
    window_prior = prior_of_windows(data) if args.controls and data is not None else None

    def controls(sequence: PosedSequence) -> list[DensityModel]:
        if not args.controls:
            return []
        own: list[DensityModel] = [EmptyControl(), *surface_controls(sequence, models[0] if models else None)]
        if window_prior is not None and "ssc_label" in sequence.frames[0].assets:
            return [*own, window_prior(sequence)]
        return [*own, *town_prior]

    return controls


def write_section(path: Path, text: str) -> None:
    """Replace the marked section of a Markdown file, or add it at the end."""
    section = f"{BEGIN}\n{text.rstrip()}\n{END}"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        new = f"{before}{section}{after}"
    else:
        new = f"{old.rstrip()}\n\n{section}\n" if old.strip() else f"{section}\n"
    path.write_text(new, encoding="utf-8")
