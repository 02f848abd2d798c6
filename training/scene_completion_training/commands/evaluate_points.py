"""`evaluate points`: classes of points by features that several 2D models were distilled into (protocol of CUA-O3D).

Each point is given the class whose sentence is nearest to its feature: to that of the pixels that show it (2D), to that
of the network (3D), and to both. --probe-on also fits linear probes to labelled scenes. Scenes are whatever the stage
`point_agglomeration` trains on. To test on another data set than was trained on, name its scenes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.commands.arguments import Output, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_number, add_paths, write_results

if TYPE_CHECKING:
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training.evaluation.probes import PointModel
    from scene_completion_training.points.data import PointSource

INDOOR_TEMPLATE = "a {} in a scene"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate points``."""
    add_paths(parser, "--checkpoint", "FILE", "checkpoints of stage point_agglomeration", required=True)
    add_paths(parser, "--data", "FOLDER", "scenes to score on", required=True)
    parser.add_argument("--split", default="", help="official split of them, such as val")
    parser.add_argument("--labels", default="", help="label set, such as scannet20 or matterport40")
    add_number(parser, "--every", 1, "every N-th view")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--bank", type=Path, metavar="FILE", help="text bank that has the classes as phrases")
    meaning = "what encodes them: local folder or hub name"
    words.add_argument("--text-encoder", type=place, metavar="MODEL", help=meaning)
    meaning = "sentence that classes stand in for --text-encoder (default: %(default)s)"
    parser.add_argument("--template", default=INDOOR_TEMPLATE, help=meaning)
    parser.add_argument("--teacher", help="teacher that these words belong to (default: the first)")
    parser.add_argument("--without-2d", action="store_true", help="leave out the rows of lifted features")
    parser.add_argument("--cache", type=Output(()), metavar="DIR", help="where lifted features are kept")
    add_paths(parser, "--probe-on", "FOLDER", "labelled scenes that linear probes are fitted to")
    parser.add_argument("--probe-split", default="", help="official split of them, such as train")
    add_number(parser, "--probe-points", 200, "labelled points of each of these scenes, at most")
    add_number(parser, "--repeats", 5, "voxelisations")
    parser.add_argument("--device", default="cpu", help="where networks run, e.g. cuda (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Fit, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_training.evaluation.probes import POINTS, PointModel, fit_point_probes

    _check(args)
    scores, names = Scores([POINTS]), []
    for file in args.checkpoint:
        model, run_name = PointModel(file, args.device), file.resolve().parent.parent.name
        probes: dict[str, Any] = {}
        if args.probe_on:
            sources = _sources(args, args.probe_on, args.probe_split)
            scenes = (scene for source in sources for scene in source.open(Path()).values())
            probes = fit_point_probes(model, scenes, args.probe_points)
        for source in _sources(args, args.data, args.split):
            names += _score(args, scores, model, source, probes, "" if len(args.checkpoint) == 1 else f"{run_name}, ")
    write_results(args, scores, list(dict.fromkeys(names)))
    return 0


def _score(
    args: argparse.Namespace, scores: Any, model: "PointModel", source: "PointSource", probes: Any, prefix: str
) -> list[str]:
    from scene_completion_training.data.store import Store
    from scene_completion_training.evaluation.probes import (
        ProbeAnswer,
        ScoredMethod,
        lifted_scores,
        point_labels,
        true_classes,
    )
    from scene_completion_training.points.data import LiftingSettings, PixelTeacher, keep_lifted, phrase_rows

    teacher = args.teacher or next(iter(model.teachers))
    if teacher not in model.teachers:
        cure = f"There are {', '.join(model.teachers)}"
        raise ConfigurationError(f"no teacher {teacher}", where="--teacher", cure=cure)
    worded = bool(args.bank or args.text_encoder)
    lifts = {}
    if worded and not args.without_2d:
        lifts = {teacher: PixelTeacher(**model.teachers[teacher]).open(args.device)}
        settings = LiftingSettings(**{**model.configuration["lifting"], "points": 0})
        store, place = Store(args.cache), {**vars(source), "folder": str(Path(source.folder).resolve())}
    scenes, banks = source.open(Path()), {}
    for name, scene in scenes.items():
        true, says, lifted = true_classes(scene), dict(probes), None
        if worded:
            if scene.classes not in banks:
                banks[scene.classes] = phrase_rows(_bank(args, scene.classes), scene.classes)
            rows = banks[scene.classes]
            says["3D"] = model.by_words(teacher, rows)
            if lifts:
                kept = keep_lifted(store, place, name, lambda: scene, lifts, settings)  # noqa: B023 - called at once
                lifted = lifted_scores(kept, teacher, rows)
        for method, labels in point_labels(model, scene, says, lifted, "3D", args.repeats).items():
            group = f"{scenes.source}, {len(scene.classes)} classes"
            scores.add(group, ScoredMethod(prefix + method, scene.classes), ProbeAnswer(labels, true))
        print(f"{name}: scored", flush=True)
    return list(scenes)


def _sources(args: argparse.Namespace, folders: Sequence[Path], split: str) -> "list[PointSource]":
    from scene_completion_training.points.data import PointSource

    return [PointSource(str(folder), labels=args.labels, split=split, every=args.every) for folder in folders]


def _bank(args: argparse.Namespace, classes: tuple[str, ...]) -> "TextBank":
    """The bank that was named, or one of the classes alone."""
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training.foundation.encoded_words import PhraseList, TextEncoder, make_bank
    from scene_completion_training.points.data import phrases

    if args.bank:
        return TextBank.load(args.bank)
    encoder = TextEncoder(args.text_encoder, args.device)
    return make_bank(encoder, PhraseList(phrases=tuple(phrases(classes)), template=args.template))


def _check(args: argparse.Namespace) -> None:
    worded = args.bank or args.text_encoder
    if not (worded or args.probe_on):
        cure = "Give --bank or --text-encoder for words, --probe-on for linear probes"
        raise ConfigurationError("nothing tells points apart", where="evaluate points", cure=cure)
    if worded and not (args.cache or args.without_2d):
        cure = "Name a folder, or leave the 2D rows out with --without-2d"
        raise ConfigurationError("lifted features have no place", where="--cache", cure=cure)
