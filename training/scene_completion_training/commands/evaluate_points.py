"""`evaluate points`: classes, things and sentences by features of points of rooms (protocols of CUA-O3D and MSM).

Checkpoints of stage `point_agglomeration` hold features that several 2D models were distilled into. Each point gets the
class whose sentence is nearest to its feature: to that of the pixels that show it (2D), to that of the network (3D),
and to both. --probe-on also fits linear probes to labelled scenes. To test on another data set than the training's,
name its scenes.

Networks of stage `masked_scene` have off-the-shelf features. Linear layers and nearest neighbours are fitted to
--probe-on. They also find things where scenes have some, and the things that sentences mean (--phrases). The same
network with random weights and colour alone are scored as well: of what a probe finds, much lies in these. So are
features of a 2D model (--foundation), and with either the trunks of stage `point_agglomeration`.

Networks of stage `supervised_points` give classes themselves: the upper bound of both.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.arguments import Output, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.progress import print_lines
from scene_completion_ros.whole_files import whole_folder
from scene_completion_training.commands import arguments
from scene_completion_training.commands.arguments import add_number, add_paths, check_names, foundation, write_results

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.report.pictures import Picture
    from scene_completion_training.arrays import Ints, Reals
    from scene_completion_training.evaluation.instances import Encoder
    from scene_completion_training.evaluation.probes import Levels, PointMethod
    from scene_completion_training.foundation.encoded_words import TextEncoder
    from scene_completion_training.points.data import PixelFeatures, PointSource
    from scene_completion_training.points.opening import Scenes
    from scene_completion_training.points.scene import PointScene

TEMPLATE = "a {} in a scene"  # sentence that classes stand in
# Labelled points of a scene that probes are fitted to, at most (CUA-O3D and MSM), and that those of MSM are scored on.
PROBED, MOST_PROBED, MOST_SCORED = 200, 1000, 20_000
MADE = "made"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate points``."""
    meaning = "checkpoints of stage point_agglomeration, masked_scene (also what `export` made of it) or "
    meaning += "supervised_points"
    add_paths(parser, "--checkpoint", "FILE", meaning, required=True)
    add_paths(parser, "--data", "FOLDER", "scenes to score on", required=True)
    parser.add_argument("--split", default="", help="official split of them, such as val (default: all scenes)")
    parser.add_argument("--labels", default="", help="label set, such as scannet20 or matterport40")
    add_number(parser, "--every", 1, "every N-th view")
    meaning = "text encoder of the classes, or of --phrases: local folder or hub name"
    parser.add_argument("--text-encoder", type=place, metavar="MODEL", help=meaning)
    meaning = "also features of pixels by this 2D model (and hidden layer), or by `files:FOLDER`, lifted to points"
    arguments.add_foundation(parser, meaning)
    add_number(parser, "--cell", 14, "pixels along a side of its tokens (4 for Stable Diffusion)")
    meaning = "where lifted features are kept; without it their rows are left out"
    parser.add_argument("--cache", type=Output(()), metavar="DIR", help=meaning)
    add_paths(parser, "--probe-on", "FOLDER", "labelled scenes that probes are fitted to")
    parser.add_argument("--probe-split", default="", help="official split of them, such as train")
    meaning = "with masked_scene also each level alone, all but it, few scenes, and few labelled points of each scene"
    parser.add_argument("--ablations", action="store_true", help=meaning)
    meaning = "also which things sentences mean: files in ScanRefer's layout, of --probe-on and of --data; or "
    meaning += f"'{MADE}': sentences that are made of classes and of what is next to what"
    parser.add_argument("--phrases", nargs="+", metavar="JSON", help=meaning)
    meaning = "of point_agglomeration also how features of its teachers differ between the views of a point"
    parser.add_argument("--ambiguity", action="store_true", help=meaning)
    meaning = "of point_agglomeration also pictures of the first scene of each folder, confusions and learned weights"
    parser.add_argument("--pictures", type=Output(("*.png",)), metavar="DIR", help=meaning)
    meaning = "things that sentences are offered (default: %(default)s)"
    parser.add_argument("--offered", choices=("true", "found"), default="true", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Fit, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.report.pictures import write_picture
    from scene_completion_training.checkpoints import Checkpoint, run_name
    from scene_completion_training.evaluation import instances, probes
    from scene_completion_training.foundation.encoded_words import TextEncoder
    from scene_completion_training.networks.agglomerated_field import AgglomeratedPoints
    from scene_completion_training.networks.supervised_points import SupervisedPoints
    from scene_completion_training.points.features import SHIPPED

    networks = {file for file in args.checkpoint if file.is_dir() or str(file) in SHIPPED}
    checkpoints = [file for file in args.checkpoint if file not in networks]
    kinds = dict.fromkeys(networks) | {file: Checkpoint.read(file).stage_class.field_class for file in checkpoints}
    distilled, supervised = (
        [file for file in args.checkpoint if kinds[file] is kind] for kind in (AgglomeratedPoints, SupervisedPoints)
    )
    frozen = [file for file in args.checkpoint if file not in (*distilled, *supervised)]
    _check(args, distilled, frozen)
    scores = Scores([probes.POINTS, probes.AMBIGUITY, instances.INSTANCES, instances.GROUNDING])
    pictures: dict[str, Picture] = {}
    data = [(source, _opened(source)) for source in _sources(args, args.data, args.split)]
    training = [_opened(source) for source in _sources(args, args.probe_on, args.probe_split)]
    encoder = TextEncoder(args.text_encoder) if args.text_encoder else None
    for file in distilled:
        name = "" if len(distilled) == 1 else run_name(file)
        pictures |= _score_distilled(args, scores, file, data, training, encoder, name)
    for file in supervised:
        _score_supervised(scores, file, [scenes for _, scenes in data])
    for method in _frozen_methods(args, frozen, distilled):
        encode = encoder.encode if encoder and args.phrases else None
        _score_frozen(args, scores, method, [scenes for _, scenes in data], training, encode)
        print_lines(f"{method.name}: scored")
    write_results(args, scores, list(dict.fromkeys(name for _, scenes in data for name in scenes)))
    if pictures:
        files = {re.sub(r"[^a-zA-Z0-9]+", "_", name).strip("_") + ".png": shown for name, shown in pictures.items()}
        with whole_folder(args.pictures, [*files], replace=args.overwrite, at_once=False) as folder:
            for file, picture in files.items():
                write_picture(folder / file, picture)
    return 0


def _score_distilled(
    args: argparse.Namespace,
    scores: Scores,
    file: Path,
    data: Sequence[tuple[PointSource, Scenes]],
    training: Sequence[Scenes],
    encoder: TextEncoder | None,
    name: str,  # in tables, where there are several
) -> dict[str, Picture]:
    """Score a network that 2D models were distilled into, by words and by linear probes; pictures by name."""
    import numpy as np

    from scene_completion_ros.evaluation.semantics import class_confusion
    from scene_completion_ros.progress import watched
    from scene_completion_training.evaluation import point_pictures, probes
    from scene_completion_training.foundation.encoded_words import PhraseList, make_bank
    from scene_completion_training.points.data import LiftingSettings, PixelTeacher, ambiguity, keep_lifted, phrases
    from scene_completion_training.points.scene import true_classes

    model, prefix = probes.PointModel(file), f"{name}, " if name else ""
    teachers, base = list(model.teachers), model.untrained()
    pictures: dict[str, Picture] = {}
    fitted, known = list[probes.PointProbe](), tuple[str, ...]()

    def with_base(scene: PointScene, rows: Ints | None) -> Levels:
        return (*model.features(scene, rows), base.features(scene, rows)[0])

    if training:
        learned = probes.labelled_points(probes.PointMethod(name, with_base), _scenes(training), PROBED)
        known, last = learned.class_names, len(teachers) + 1
        of_base = probes.fit_linear_probe(learned.values((last,)), learned.classes, len(known))
        fitted = [*probes.fit_head_probes(learned, teachers)]
        fitted.append(probes.PointProbe("random weights, probe, trunk", (last,), of_base, known))
    settings = LiftingSettings(**{**model.configuration["lifting"], "points": 0})
    opened: dict[str, PixelFeatures] = {}

    def teacher_of(one: str) -> PixelFeatures:
        if one not in opened:
            opened[one] = PixelTeacher(**model.teachers[one]).open(model.device.type)
        return opened[one]

    banks = {}
    confusions: dict[str, tuple[tuple[str, ...], NDArray[np.int64]]] = {}
    for source, scenes in data:
        kept = {**vars(source), "folder": str(Path(source.folder).resolve())}
        for number, scene in watched(scenes.items(), "scene"):
            if known and scene.classes != known:
                what, cure = "its classes are not those of --probe-on", "Name scenes with the same --labels"
                raise ConfigurationError(what, where=number, cure=cure)
            true, group = true_classes(scene), _group(scenes, scene.classes)
            levels = with_base(scene, None) if fitted else model.features(scene)
            found = {probe.name: probe.labels(levels) for probe in fitted}
            shown: dict[str, Reals] = {"3D, trunk": levels[0]}
            if encoder:
                if scene.classes not in banks:
                    banks[scene.classes] = make_bank(
                        encoder, PhraseList(phrases=tuple(phrases(scene.classes)), template=TEMPLATE)
                    )
                rows, lifted = banks[scene.classes].rows(phrases(scene.classes)), None
                teacher = model.teacher_of(rows)
                if args.cache:
                    pixels = {teacher: teacher_of(teacher)}
                    seen = keep_lifted(args.cache, kept, number, lambda: scene, pixels, settings)  # noqa: B023 - called at once
                    if not np.array_equal(seen.points, scene.points):
                        what, cure = "its kept features are of other points", "Name another folder"
                        raise ConfigurationError(what, where=f"--cache, {number}", cure=cure)
                    lifted = seen.at(teacher, np.arange(len(scene)))
                    shown["2D, lifted"] = lifted
                found |= probes.labels_by_words(levels[1 + teachers.index(teacher)], rows, lifted)
            for row, labels in found.items():
                scored, answer = probes.ScoredMethod(prefix + row, scene.classes), probes.ProbeAnswer(labels, true)
                scores.add(group, scored, answer, metrics=[probes.POINTS])
            every = {one: teacher_of(one) for one in teachers} if args.ambiguity else {}
            spread = ambiguity(scene, every, settings) if every else {}
            for one, variance in spread.items():
                scored = probes.ScoredMethod(f"{prefix}teacher {one}", scene.classes)
                scores.add(group, scored, (variance, true), metrics=[probes.AMBIGUITY])
            if args.pictures:
                count = len(scene.classes)
                for row, labels in found.items():
                    key = f"{prefix}{group}, {row}"
                    counts = class_confusion(labels, true, count + 1, count)
                    confusions[key] = scene.classes, confusions[key][1] + counts if key in confusions else counts
            if args.pictures and number == next(iter(scenes)):
                title = f"{prefix}{group}, {number}"
                answers = {row: of for row, of in found.items() if "probe" not in row or "concatenation" in row}
                pictures[title] = point_pictures.scene_sheet(
                    title, scene.points, scene.classes, true, shown, answers, spread
                )
    for key, (names, counts) in confusions.items():
        pictures[f"confusion, {key}"] = point_pictures.confusion_picture(key, counts, names)
    curves = point_pictures.read_curves(file.parent.parent / "curves", "uncertainty/") if args.pictures else {}
    if curves:
        pictures[f"{prefix}uncertainty"] = point_pictures.curves_picture(f"{prefix}uncertainty of each teacher", curves)
    return pictures


def _score_supervised(scores: Scores, file: Path, data: Sequence[Scenes]) -> None:
    """Score a network that was trained with labels: HUNet on the points that probes of MSM are scored on."""
    from scene_completion_ros.progress import watched
    from scene_completion_training.checkpoints import run_name
    from scene_completion_training.evaluation import probes
    from scene_completion_training.points.scene import drawn_rows, true_classes

    model = probes.SupervisedModel(file)
    method = probes.ScoredMethod(f"{run_name(file)}, supervised", model.class_names)
    for scenes in data:
        for _, scene in watched(scenes.items(), "scene"):
            rows = drawn_rows(scene, MOST_SCORED) if model.hierarchical else None
            true = true_classes(scene)[slice(None) if rows is None else rows]
            answer = probes.ProbeAnswer(model.labels(scene, rows), true)
            scores.add(_group(scenes, scene.classes), method, answer, metrics=[probes.POINTS])


def _score_frozen(
    args: argparse.Namespace,
    scores: Scores,
    method: PointMethod,
    data: Sequence[Scenes],
    training: Sequence[Scenes],
    encode: Encoder | None,
) -> None:
    """Fit what reads the off-the-shelf features of a method, and score it."""
    import numpy as np

    from scene_completion_training.evaluation import instances, probes
    from scene_completion_training.points.scene import drawn_rows, true_classes

    labelled = probes.labelled_points(method, _scenes(training), MOST_PROBED)
    fitted = list(probes.fit_probes(method.name, labelled, ablations=args.ablations))
    finder = head = None
    if np.isfinite(labelled.offsets).any() or args.offered == "found":
        finder = instances.fit_instances(method.name, labelled)
    offered = finder if args.offered == "found" else None
    files = [None, None] if args.phrases == [MADE] else [Path(file) for file in args.phrases or ()]
    learned, tested = (_phrases(file) for file in files) if encode else (None, None)
    if learned and encode:
        known = [
            instances.asked(scene, method.features(scene, None), of, offered)
            for scene in _scenes(training)
            if (of := learned(scene))
        ]
        head = instances.fit_grounding(method.name, known, encode)
    for scenes in data:
        for name, scene in scenes.items():
            if scene.classes != labelled.class_names:
                what, cure = "its classes are not those of --probe-on", "Name scenes with the same --labels"
                raise ConfigurationError(what, where=name, cure=cure)
            rows, group = drawn_rows(scene, MOST_SCORED), _group(scenes, scene.classes)
            whole = method.features(scene, None) if finder or head else ()
            drawn = tuple(level[rows] for level in whole) or method.features(scene, rows)
            for probe in fitted:
                answer = probes.ProbeAnswer(probe.labels(drawn), true_classes(scene)[rows])
                scores.add(group, probe, answer, metrics=[probes.POINTS])
            if finder:
                true = list(instances.true_things(scene).values())
                found = instances.Instances(finder.things(scene.points, whole), true, len(scene))
                scores.add(group, finder, found, metrics=[instances.INSTANCES])
            if head and encode and tested and (of := tested(scene)):
                meant = head.answers(instances.asked(scene, whole, of, offered), encode)
                scores.add(group, head, meant, metrics=[instances.GROUNDING])


def _phrases(file: Path | None) -> Callable[[PointScene], list[tuple[str, int]]]:
    """Sentences of scenes, from a file or made."""
    from scene_completion_training.evaluation import instances

    if file is None:
        return instances.made_phrases
    known = instances.read_phrases(file)
    return lambda scene: known.get(scene.name, [])


def _frozen_methods(
    args: argparse.Namespace, files: Sequence[Path], distilled: Sequence[Path]
) -> Iterator[PointMethod]:
    """Each network, each size with random weights, 2D models, what these were distilled into, and colour alone."""
    from scene_completion_training.checkpoints import run_name
    from scene_completion_training.evaluation.probes import PointMethod, PointModel, colour_alone, lifted_features
    from scene_completion_training.points.data import PixelTeacher
    from scene_completion_training.points.features import PointNetwork

    known: list[object] = []
    for file in files:
        name, network = run_name(file), PointNetwork.open(file)
        yield PointMethod(name, network.of_scene)
        if (made := (network.network.settings, network.voxel_size)) not in known:  # the same for all of them
            known.append(made)
            yield PointMethod(f"{name}, random weights", network.untrained(0).of_scene)
    if args.foundation:
        model, layer = foundation(args)
        teacher = PixelTeacher(Path(model).name, model=model, layer=layer, cell=args.cell)
        yield PointMethod(f"{teacher.name}, lifted", lifted_features(args.cache, teacher))
    if files or args.foundation:
        for file in distilled:
            yield PointMethod(f"{run_name(file)}, trunk", PointModel(file).trunk)
        yield PointMethod("colour alone", colour_alone)


def _sources(args: argparse.Namespace, folders: Sequence[Path], split: str) -> list[PointSource]:
    from scene_completion_training.points.data import PointSource

    return [PointSource(str(folder), labels=args.labels, split=split, every=args.every) for folder in folders]


def _opened(source: PointSource) -> Scenes:
    from scene_completion_training.evaluation.instances import without_stuff

    return without_stuff(source.open(Path()))


def _scenes(several: Sequence[Scenes]) -> Iterator[PointScene]:
    return (scene for scenes in several for scene in scenes.values())


def _group(scenes: Scenes, classes: tuple[str, ...]) -> str:
    return f"{scenes.source}, {len(classes)} classes"


def _check(args: argparse.Namespace, distilled: Sequence[Path], frozen: Sequence[Path]) -> None:
    check_names(args)
    if (frozen or args.foundation) and not args.probe_on:
        what = f"no scenes to fit probes of {(frozen or args.foundation)[0]} to"
        raise ConfigurationError(what, where="--probe-on", cure="Name labelled scenes")
    if args.foundation and not args.cache:
        raise ConfigurationError("no place for lifted features", where="--foundation", cure="Give --cache")
    if args.phrases and args.phrases != [MADE] and len(args.phrases) != 2:
        what, cure = f"{len(args.phrases)} files", f"Name that of --probe-on and that of --data, or {MADE!r}"
        raise ConfigurationError(what, where="--phrases", cure=cure)
    if args.phrases and not args.text_encoder:
        raise ConfigurationError("sentences without their encoder", where="--phrases", cure="Give --text-encoder")
    if not distilled and (args.ambiguity or args.pictures):
        what, cure = "no checkpoint has teachers", "Name one of stage point_agglomeration"
        raise ConfigurationError(what, where="--ambiguity, --pictures", cure=cure)
    if distilled and not (args.text_encoder or args.probe_on or args.ambiguity):
        cure = "Give --text-encoder for words, --probe-on for linear probes, or --ambiguity"
        raise ConfigurationError("nothing distinguishes points", where="evaluate points", cure=cure)
