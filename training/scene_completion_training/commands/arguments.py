"""Arguments that several commands share, and what follows from them: models, recordings, where results go."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.commands.arguments import place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.plain_text import markdown
from scene_completion_ros.progress import print_lines

if TYPE_CHECKING:
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.sequences.frame_lists import FrameSplit, SplitCount
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.evaluation.deployed import DeployedStudent
    from scene_completion_training.evaluation.predictor import Predictor

POSES = "the poses of the recording"
SHARED_DATA = "SCENE_COMPLETION_DATA"  # environment variable that names the folder of the recordings


class Paths(argparse.Action):
    """Leaves out reports of `extract`, so that ``sequences/*/*`` stands for all that it made."""

    def __call__(self, _parser: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Keeps the other paths."""
        kept = [path for path in values if Path(path).name != "report.json"] or values
        if len(kept) < len(values):
            what = "report.json is left out: it is a report of extract, no recording"
            print(f"{option or 'inputs'}: {what}", file=sys.stderr)
        setattr(namespace, self.dest, kept)


def add_paths(parser: argparse._ActionsContainer, flag: str, shown: str, text: str, *, required: bool = False) -> None:
    """Declare an argument that takes one or more files or folders; none where it is left out."""
    options: dict[str, Any] = {"action": Paths, "type": Path, "nargs": "+", "default": [], "required": required}
    parser.add_argument(flag, metavar=shown, help=text, **options)


def add_number(parser: argparse._ActionsContainer, flag: str, default: int | None, text: str, least: int = 1) -> None:
    """Declare an argument that takes a whole number, `least` or more; argparse refuses what is none."""

    def number(given: str) -> int:
        if not given.isdecimal() or int(given) < least:
            raise argparse.ArgumentTypeError(f"{given} is no whole number from {least} on. Give {least} or more")
        return int(given)

    shown = "" if default is None else " (default: %(default)s)"
    parser.add_argument(flag, type=number, default=default, metavar="N", help=text + shown)


def add_foundation(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Declare --foundation."""
    parser.add_argument("--foundation", type=place, nargs="+", metavar=("MODEL", "LAYER"), help=meaning)


def foundation(args: argparse.Namespace) -> tuple[str, int]:
    """The model that --foundation names, and its hidden layer, by default the last one."""
    model, *layers = args.foundation
    if len(layers) > 1 or not all(layer.removeprefix("-").isdecimal() for layer in layers):
        raise ConfigurationError(f"{' '.join(layers)} is no layer", where="--foundation", cure="Give a whole number")
    return model, int(layers[0]) if layers else -1


def check_names(args: argparse.Namespace) -> None:
    """Raise a `ConfigurationError` where several of --checkpoint and --bundle have one name."""
    from scene_completion_training.checkpoints import run_name

    names = [run_name(file) for file in args.checkpoint]
    names += [folder.resolve().name for folder in getattr(args, "bundle", ())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        cure = "A model has the name of its bundle or of the folder of its run: give the folders different names"
        raise ConfigurationError(f"several have the name {', '.join(twice)}", where="--checkpoint, --bundle", cure=cure)


def add_windows(parser: argparse.ArgumentParser) -> None:
    """Declare --windows."""
    meaning = f"KITTI windows under ${SHARED_DATA}, e.g. 06 09"
    parser.add_argument("--windows", nargs="+", default=[], metavar="NAME", help=meaning)


def window_folders(args: argparse.Namespace) -> list[Path]:
    """Folders of the windows that were named."""
    folder = Path(os.environ.get(SHARED_DATA, "")) / "kitti_windows" / "sequences"
    return [folder / name for name in getattr(args, "windows", ())]


def add_checkpoints(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Declare --checkpoint and --views."""
    add_paths(parser, "--checkpoint", "FILE", "training checkpoints to score", required=required)
    meaning = "views that checkpoints encode: so many along the drive, or as MVBTS has them mono, temporal, stereo, "
    meaning += "stereo-temporal, fisheyes, all (default: 1)"
    parser.add_argument("--views", nargs="+", default=["1"], metavar="N", help=meaning)


def add_frames(parser: argparse.ArgumentParser) -> None:
    """Declare --frames and --allow-missing."""
    meaning = "published frame list (`drive frame side`), of which the left camera's frames are scored"
    parser.add_argument("--frames", type=Path, metavar="LIST", help=meaning)
    parser.add_argument("--allow-missing", action="store_true", help="go on where listed frames are not there")


def read_frames(path: Path | None) -> FrameSplit | None:
    """The frame list that was named, if any."""
    from scene_completion_ros.sequences.frame_lists import FrameSplit

    return None if path is None else FrameSplit(path)


def count_frames(args: argparse.Namespace, split: FrameSplit | None) -> SplitCount | None:
    """How much of a list was found; a `SequenceError` where frames are missing and --allow-missing is not given."""
    return None if split is None else split.counted(allow_missing=args.allow_missing)


def listed_folders(folders: Iterable[Path], split: FrameSplit | None) -> list[Path]:
    """Those of which a list names frames, or all without one."""
    return [folder for folder in folders if split is None or split.names(folder.resolve().name)]


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Declare --engine."""
    meaning = "what runs the networks: auto, openvino, openvino_bf16, onnxruntime, tensorrt (default: %(default)s)"
    parser.add_argument("--engine", default="auto", help=meaning)


def open_models(args: argparse.Namespace) -> list[Predictor]:
    """Open the bundles and checkpoints that were named; a `ConfigurationError` if two have one name."""
    from scene_completion_training.evaluation.checkpoints import open_checkpoint

    if args.bundle and args.views != ["1"]:
        what = "bundles see one image"
        raise ConfigurationError(what, where="--views", cure="Score checkpoints by themselves, or leave it out")
    check_names(args)
    models: list[Predictor] = [*open_students(args)]
    return models + [model for path in args.checkpoint for model in open_checkpoint(path, args.views)]


def open_students(args: argparse.Namespace) -> list[DeployedStudent]:
    """Open the bundles that were named, with the engine and the evidence that were chosen."""
    from scene_completion_training.evaluation.deployed import open_deployed

    return [open_deployed(folder, engine=args.engine, scale_from=args.scale_from) for folder in args.bundle]


def open_recordings(folders: Iterable[Path], split: FrameSplit | None = None) -> list[PosedSequence]:
    """Open the recordings of which a list names frames, or all without one."""
    from scene_completion_ros.sequences.opening import open_recording

    return [open_recording(folder) for folder in listed_folders(folders, split)]


def open_listed(args: argparse.Namespace) -> tuple[list[PosedSequence], FrameSplit | None, SplitCount | None]:
    """Open what --data and --windows name; the list of --frames, and how much of it these hold.

    Raises SequenceError where listed frames are missing, before hours are spent on the others.
    """
    split, counting = (read_frames(args.frames) for _ in range(2))  # each gives a drive's frames once
    recordings = open_recordings([*args.data, *window_folders(args)], split)
    if counting is not None:
        for sequence in recordings:
            counting.of(sequence)
    return recordings, split, count_frames(args, counting)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a run as plain values, and which students these were."""
    from scene_completion_ros.inference.bundle import open_student

    students = {}
    for folder in getattr(args, "bundle", None) or []:
        bundle = open_student(folder)
        students[folder.resolve().name] = {**bundle.made_from(), "thresholds": bundle.thresholds._asdict()}
    return ({"students": students} if students else {}) | {
        name: [str(entry) for entry in value] if isinstance(value, list) else str(value)
        for name, value in vars(args).items()
        if name not in ("command", "protocol", "run_protocol", "output", "overwrite") and value not in (None, [])
    }


def write_results(
    args: argparse.Namespace,
    scores: Scores,
    recordings: Sequence[str],  # names of what was scored
    counted: SplitCount | None = None,  # how much of a frame list was scored
    named: SplitCount | None = None,  # how much of a frame list gave the names of clusters
) -> None:
    """Print the tables, and write them into --output as results.md, and as results.json."""
    import dataclasses
    import json

    folder: Path = args.output
    listed = [f"{what}: {count}." for what, count in (("Frames", counted), ("Named by", named)) if count]
    text = "\n\n".join([f"Recordings: {', '.join(map(markdown, recordings))}.", *listed, scores.markdown()]) + "\n"
    content = {"settings": settings_of(args), "recordings": list(recordings), "scores": scores.to_json()}
    content |= {key: dataclasses.asdict(count) for key, count in (("frames", counted), ("name_frames", named)) if count}
    print_lines(text)
    (folder / "results.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(text, encoding="utf-8")


def check_recordings(args: argparse.Namespace, protocol: str) -> None:
    """Raise a `ConfigurationError` without --data and --windows, or if the windows' folder is not known."""
    if not (args.data or args.windows):
        raise ConfigurationError("nothing to score on", where=f"evaluate {protocol}", cure="Give --data or --windows")
    if args.windows and not os.environ.get(SHARED_DATA):
        raise ConfigurationError("its folder is not known", where="--windows", cure=f"Set {SHARED_DATA}")


def refuse_scored(scored: Sequence[Path], others: dict[str, list[Path]]) -> None:
    """Raise where the folders of an argument are scored as well."""
    for flag, folders in others.items():
        if shared := {folder.resolve() for folder in scored} & {folder.resolve() for folder in folders}:
            what = f"{', '.join(map(str, sorted(shared)))} is scored as well"
            raise ConfigurationError(what, where=flag, cure="Name other recordings")
