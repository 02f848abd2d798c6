"""`evaluate point-features`: what off-the-shelf features of points hold of classes, things and sentences.

Probes are fitted to labelled scenes of --train and scored on those of --data. Beside each network that is named come
the same network with random weights and colour alone: of what a probe finds, much lies in these.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.arguments import place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_methods, add_number, check_methods, write_results

if TYPE_CHECKING:
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_training.evaluation.instances import Encoder
    from scene_completion_training.evaluation.probes import PointMethod
    from scene_completion_training.points.opening import Scenes

PROBE_STEPS = 1000
GROUP = "scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate point-features``."""
    for flag, split, use in (("--train", "train", "fitted to"), ("--data", "val", "scored on")):
        parser.add_argument(flag, type=Path, required=True, metavar="SCENES", help=f"scenes that probes are {use}")
        meaning = f"official split of it: train, val or test (e.g. {split}; default: all scenes)"
        parser.add_argument(f"{flag}-split", default="", metavar="SPLIT", help=meaning)
    parser.add_argument("--labels", default="", metavar="SET", help="label set, e.g. scannet200 (default: the data's)")
    meaning = "networks of stage masked_scene under one name, one for each seed; may come several times"
    add_methods(parser, "--method", meaning)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of the probes (default: 0)")
    parser.add_argument("--levels", action="store_true", help="also each level alone, and all but it")
    meaning = "also with so many percent of the training scenes"
    parser.add_argument("--shares", type=float, nargs="+", default=[], metavar="PERCENT", help=meaning)
    meaning = "also with so many labelled points of each training scene"
    parser.add_argument("--points", type=int, nargs="+", default=[], metavar="N", help=meaning)
    for flag, use, most in (("--train-points", "probes learn from", 1000), ("--test-points", "are scored", 20000)):
        add_number(parser, flag, most, f"labelled points of a scene that {use}, at most")
    parser.add_argument("--instances", action="store_true", help="also find things")
    meaning = "classes that are no things, whatever instances they have (default: %(default)s)"
    parser.add_argument("--stuff", nargs="*", default=["wall", "floor"], metavar="CLASS", help=meaning)
    meaning = "also which things sentences mean: files in ScanRefer's layout, of --train and of --data"
    parser.add_argument("--phrases", type=Path, nargs=2, metavar="JSON", help=meaning)
    meaning = "text encoder of the sentences: local folder, or name on the model hub"
    parser.add_argument("--text-encoder", type=place, metavar="MODEL", help=meaning)
    meaning = "things that sentences are offered (default: %(default)s)"
    parser.add_argument("--offered", choices=("true", "found"), default="true", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Fit, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_training.evaluation import instances, probes

    check_methods("--method", args.method)
    if not args.method:
        raise ConfigurationError("no network is named", where="evaluate point-features", cure="Give --method")
    if bool(args.phrases) != bool(args.text_encoder):
        what, cure = "one is given without the other", "Give both, or neither"
        raise ConfigurationError(what, where="--phrases, --text-encoder", cure=cure)
    train, data = _opened(args, args.train, args.train_split), _opened(args, args.data, args.data_split)
    encode, scores = _encoder(args), Scores([probes.POINTS, instances.INSTANCES, instances.GROUNDING])
    for method, seed, number in _methods(args):
        _score(args, scores, method, (seed, number), (train, data), encode)
        print(f"{method.name}: scored", flush=True)
    write_results(args, scores, list(data))
    return 0


def _score(
    args: argparse.Namespace,
    scores: Scores,
    method: PointMethod,
    seeds: tuple[int, int],
    scenes: tuple[Scenes, Scenes],
    encode: Encoder | None,
) -> None:
    """Fits what reads the features of a method, and scores it; seeds are its own and its place among those."""
    from scene_completion_training.evaluation import instances, probes

    (seed, number), (train, data) = seeds, scenes
    names = train.classes or next(iter(train.values())).classes
    labelled = probes.labelled_points(method, train, args.train_points, seed)
    few = {"each_level": args.levels, "shares": args.shares, "points": args.points}
    fitted = list(probes.fit_probes(method.name, labelled, names, **few, seed=seed, steps=PROBE_STEPS))
    finder = head = None
    if args.instances or args.offered == "found":
        finder = instances.fit_instances(method.name, labelled, names, seed=seed, steps=PROBE_STEPS)
    offered = finder if args.offered == "found" else None
    learned, tested = (instances.read_phrases(file) for file in args.phrases or ()) if encode else ({}, {})
    if encode:
        told = ((train[name], phrases) for name, phrases in learned.items() if name in train)
        known = [instances.asked(scene, method.features(scene, None), phrases, offered) for scene, phrases in told]
        head = instances.fit_grounding(method.name, known, encode, seed=seed)
    for name, scene in data.items():
        if scene.classes != names:
            what, cure = f"its classes are not those of {args.train}", "Name scenes with the same --labels"
            raise ConfigurationError(what, where=name, cure=cure)
        rows = probes.drawn_rows(scene, args.test_points, 0)
        assert scene.label is not None
        whole = method.features(scene, None) if finder or head else ()
        drawn = tuple(level[rows] for level in whole) or method.features(scene, rows)
        for probe in fitted:
            predicted = probe.probe.labels(probes.side_by_side(drawn, probe.levels))
            answer = probes.ProbeAnswer(predicted, scene.label[rows])
            scores.add(GROUP, probe, answer, seed=number, metrics=[probes.POINTS])
        if finder and args.instances:
            true = list(instances.true_things(scene).values())
            found = instances.Instances(finder.things(scene.points, whole), true, len(scene))
            scores.add(GROUP, finder, found, seed=number, metrics=[instances.INSTANCES])
        if head and encode and name in tested:
            said = head.answers(instances.asked(scene, whole, tested[name], offered), encode)
            scores.add(GROUP, head, said, seed=number, metrics=[instances.GROUNDING])


def _opened(args: argparse.Namespace, folder: Path, split: str) -> Scenes:
    from scene_completion_training.evaluation.instances import without_stuff
    from scene_completion_training.points.opening import open_scenes

    scenes = open_scenes(folder, labels=args.labels, split=split)
    readers = {name: partial(without_stuff, read, args.stuff) for name, read in scenes.readers.items()}
    return dataclasses.replace(scenes, readers=readers)


def _encoder(args: argparse.Namespace) -> Encoder | None:
    from scene_completion_training.foundation.encoded_words import TextEncoder

    return TextEncoder(args.text_encoder).encode if args.text_encoder else None


def _methods(args: argparse.Namespace) -> Iterator[tuple[PointMethod, int, int]]:
    """Methods, the seed of what is fitted to each, and its number among those of its name."""
    from scene_completion_training.evaluation.probes import PointMethod, colour_alone
    from scene_completion_training.points.features import PointNetwork

    for name, *files in args.method:
        networks = [PointNetwork.open(Path(file)) for file in files]
        seeds = args.seeds if len(networks) == 1 else args.seeds[:1] * len(networks)
        for number, seed in enumerate(seeds):
            yield PointMethod(name, networks[min(number, len(networks) - 1)].of_scene), seed, number
        for number, seed in enumerate(args.seeds):
            yield PointMethod(f"{name}, random weights", networks[0].untrained(seed).of_scene), seed, number
    for number, seed in enumerate(args.seeds):
        yield PointMethod("colour alone", colour_alone), seed, number
