"""`evaluate kitti`: depth against LiDAR and voxels against semantic voxels, on windows of KITTI odometry."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from scene_completion_ros.commands.paths import CHANGED_FILE
from scene_completion_ros.whole_files import write_whole
from scene_completion_training.commands.arguments import SHARED_DATA, add_engine, say_dropped

BEGIN, END = "<!-- begin: scene-completion evaluate -->", "<!-- end: scene-completion evaluate -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
        help="fit depth (two numbers that stretch the densities, on LiDAR), probability and threshold (on semantic "
        "voxels) on this window and write them into the bundle. Without --windows nothing is scored",
    )
    parser.add_argument("--baselines-only", action="store_true", help="score the baselines alone, without a student")
    parser.add_argument(
        "--output",
        type=CHANGED_FILE,
        metavar="FILE",
        help="FILE.json takes all scores; any other file is Markdown, whose section between the marks "
        f'"{BEGIN}" and "{END}" is replaced, or added at the end',
    )
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Fit, score, print and write."""
    import json

    from scene_completion_ros.errors import SequenceError
    from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
    from scene_completion_ros.inference.shipped import open_student, own_student
    from scene_completion_training.evaluation.deployed_model import StudentPredictor, calibrate
    from scene_completion_training.evaluation.kitti import (
        TEST_WINDOWS,
        TRAINING_WINDOWS,
        fit_baselines,
        open_window,
        score_window,
    )
    from scene_completion_training.evaluation.tables import as_json, markdown

    if args.data is None:
        raise SequenceError("no data folder given", where="--data", cure=f"Name it, or set {SHARED_DATA}")
    data = Path(args.data)
    names = args.windows if args.windows is not None else [] if args.fit_calibration else list(TEST_WINDOWS)
    bundle: StudentBundle | None = None
    if not args.baselines_only:
        bundle = own_student(args.bundle) if args.fit_calibration and args.bundle else open_student(args.bundle)
        if args.fit_calibration:
            if bundle.folder is not None and bundle.folder.resolve().parent == DEFAULT_BUNDLE.parent:
                raise SequenceError(
                    "the bundle would be one that comes with the package",
                    where="--fit-calibration",
                    cure="Name a folder of your own with --bundle: the installed ones are not rewritten",
                )
            if args.fit_calibration in (*TEST_WINDOWS, *TRAINING_WINDOWS):
                raise SequenceError(
                    f"window {args.fit_calibration} is used for training or testing",
                    where="--fit-calibration",
                    cure="Fit on a window that is used for nothing else",
                )
            before = bundle
            bundle = calibrate(
                before, open_window(data, args.fit_calibration), engine=args.engine, threads=args.threads
            )
            knots = len(bundle.calibration.alpha)
            stretch = bundle.provenance["calibration"]["density_stretch"]
            print(
                f"{bundle.folder}: densities stretched by {stretch['scale']} and {stretch['offset']}, calibration with "
                f"{knots} knots, threshold {bundle.threshold:.4f}"
            )
            say_dropped(before, bundle)
    if not names:
        return 0
    baselines = fit_baselines(data)
    scores = []
    for window in (open_window(data, name) for name in names):
        methods = {}
        if bundle is not None:
            methods["student"] = StudentPredictor(bundle, window, engine=args.engine, threads=args.threads)
        scores.append(score_window(window, methods, baselines))
    text = markdown(scores)
    print(text)
    if args.output is not None and args.output.suffix == ".json":
        write_whole(args.output, (json.dumps(as_json(scores), indent=2, allow_nan=False) + "\n").encode())
    elif args.output is not None:
        command = f"scene-completion evaluate kitti --windows {' '.join(names)}"
        write_section(args.output, f"Made by `{command}`.\n\n{text}")
    return 0


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
    write_whole(path, new.encode())
