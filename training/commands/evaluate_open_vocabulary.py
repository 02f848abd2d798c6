"""`evaluate open-vocabulary`: zero-shot labels and words of voxels, beside controls, ensembles and linear probes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from scene_completion_ros.commands.paths import RESULTS, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import (
    add_methods,
    add_paths,
    asked,
    check_methods,
    refuse_scored,
    write_results,
)

if TYPE_CHECKING:
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.evaluation.density_model import DensityModel
    from scene_completion_training.evaluation.open_vocabulary import Judge, LabelSet, OpenVocabularyModel, ZeroShot
    from scene_completion_training.evaluation.open_vocabulary_models import LiftedPixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate open-vocabulary``."""
    add_methods(
        parser,
        "--method",
        "name for tables, and checkpoints of stage agglomeration that differ in the seed alone; repeatable",
    )
    add_methods(
        parser,
        "--probed",
        "the same of checkpoints that know no text-aligned teacher: with --probe they get a linear probe alone",
    )
    parser.add_argument(
        "--bundle", type=Path, action="append", default=[], metavar="DIR", help="a student as deployed; repeatable"
    )
    parser.add_argument(
        "--space", metavar="TEACHER", help="text-aligned teacher of the methods, whose features are read"
    )
    parser.add_argument(
        "--student", type=Path, required=True, metavar="DIR", help="bundle whose density says what is occupied"
    )
    parser.add_argument(
        "--bank", type=Path, required=True, metavar="FILE", help="text bank with SemanticKITTI's classes, and the words"
    )
    parser.add_argument("--words", type=Path, metavar="FILE", help="words and what they mean, as unseen_words.yaml")
    parser.add_argument(
        "--teacher",
        type=place,
        metavar="MODEL",
        help="text-aligned teacher, as in `features`, for controls: 2D only, on rendered surfaces, by true depth",
    )
    parser.add_argument("--text-encoder", type=place, metavar="MODEL", help="text encoder of espnetv2")
    parser.add_argument("--class-texts", type=Path, metavar="FILE", help="phrases of its classes, as in `features`")
    parser.add_argument(
        "--cell", type=int, default=8, metavar="PIXELS", help="pixels along a token's side (default: %(default)s)"
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="each method together with --teacher, by the max and the mean rule"
    )
    parser.add_argument(
        "--prior", action="store_true", help="a control: the most frequent class of --train-recordings everywhere"
    )
    parser.add_argument(
        "--probe", action="store_true", help="beside each method a linear probe, fitted to --train-recordings"
    )
    add_paths(parser, "--recordings", "FOLDER", "towns and KITTI windows to score on", required=True)
    add_paths(parser, "--train-recordings", "FOLDER", "towns and KITTI windows for the prior and the probes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the probes' points (default: %(default)s)")
    parser.add_argument("--every", type=int, default=5, metavar="N", help="every N-th frame (default: %(default)s)")
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes results.json and .md")


def run(args: argparse.Namespace) -> int:
    """Score all methods, print and write."""
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training.evaluation.occupancy_run import open_recording
    from scene_completion_training.evaluation.open_vocabulary import (
        COMMON,
        SEMANTIC_KITTI,
        ZeroShot,
        evaluate_models,
        label_set_of,
        read_words,
    )
    from scene_completion_training.evaluation.open_vocabulary_tables import MethodScores, as_json, markdown
    from scene_completion_training.evaluation.semantic_models import student_density

    _check(args)
    bank, words = TextBank.load(args.bank), read_words(args.words) if args.words else {}
    density, cutoff = student_density(args.student)
    asked_models = _models(args, bank, density)
    recordings, training = (
        [open_recording(folder) for folder in folders] for folders in (args.recordings, args.train_recordings)
    )
    results = []
    for group, label_set in (("towns", SEMANTIC_KITTI), ("windows", COMMON)):
        scored = [sequence for sequence in recordings if label_set_of(sequence) is label_set]
        if not scored:
            continue
        rows = _rows(args, density, asked_models, ZeroShot(bank, label_set, words), training, label_set)
        judged = [seed for _, seeds in rows for seed in seeds]
        scores = iter(evaluate_models(judged, scored, label_set, cutoff, args.every))
        results += [
            MethodScores(group, label_set.name, name, [next(scores) for _ in seeds], words) for name, seeds in rows
        ]
    write_results(args.output, as_json(results, asked(args)), markdown(results))
    return 0


@dataclass(frozen=True)
class _Models:
    """What is scored: of each method its seeds.

    Attributes:
        teacher: The 2D teacher, lifted.
        answering: Models in the space of the bank's texts.
        probed: Models that have no such space.
    """

    teacher: OpenVocabularyModel | None
    answering: dict[str, list[OpenVocabularyModel]]
    probed: dict[str, list[OpenVocabularyModel]]


def _models(args: argparse.Namespace, bank: TextBank, density: DensityModel) -> _Models:
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_training.evaluation.open_vocabulary_models import DeployedFeatures, FieldFeatures, Remembered

    def opened(methods: Sequence[Sequence[str]], space: str) -> dict[str, list[OpenVocabularyModel]]:
        return {
            name: [Remembered(FieldFeatures.open(Path(file), density, space)) for file in files]
            for name, *files in methods
        }

    answering = opened(args.method, args.space)
    for folder in args.bundle:
        name = f"{folder.resolve().name}, deployed"
        answering[name] = [Remembered(DeployedFeatures(open_student(folder), bank, density, name))]
    teacher = Remembered(_lifted(args, bank, density)) if args.teacher else None
    return _Models(teacher, answering, opened(args.probed, ""))


_Row: TypeAlias = "tuple[str, list[tuple[OpenVocabularyModel, Judge]]]"
"""Name of a method, and of each of its seeds a model, and what says what its points are."""


def _rows(
    args: argparse.Namespace,
    density: DensityModel,
    models: _Models,
    zero_shot: ZeroShot,
    training: Sequence[PosedSequence],
    label_set: LabelSet,
) -> list[_Row]:
    from scene_completion_training.evaluation.linear_probe import probe_models
    from scene_completion_training.evaluation.open_vocabulary_models import (
        ClassPrior,
        Ensemble,
        OnSurface,
        OracleLift,
        Remembered,
        most_frequent,
    )

    rows: list[_Row] = []
    if args.prior:
        number = most_frequent(training, label_set, sorted(set(zero_shot.group.tolist())))
        prior = ClassPrior(zero_shot.rows[zero_shot.group == number][0], density)
        rows.append((f"{prior.name}: {label_set.names[number]}", [(prior, zero_shot)]))
    flat: list[OpenVocabularyModel] = []
    teacher = models.teacher
    if teacher is not None:
        flat = [teacher, Remembered(OnSurface(teacher, f"{teacher.name} on the rendered surface"))]
        controls = (*flat, OracleLift(teacher, f"{teacher.name} lifted by true depth"))
        rows += [(control.name, [(control, zero_shot)]) for control in controls]
    for name, seeds in models.answering.items():
        rows.append((name, [(model, zero_shot) for model in seeds]))
        for rule, phrases in (("max", zero_shot.rows), ("mean", None)) if args.ensemble else ():
            for other in flat:
                together = f"{name} + {other.name}, {rule}"
                rows.append((together, [(Ensemble(model, other, together, phrases), zero_shot) for model in seeds]))
    if args.probe:
        probed = {**({} if teacher is None else {teacher.name: [teacher]}), **models.answering, **models.probed}
        every = [model for seeds in probed.values() for model in seeds]
        probes = iter(probe_models(every, training, label_set, every=args.every, seed=args.seed))
        rows += [
            (f"{name}, linear probe", [(model, next(probes)) for model in seeds]) for name, seeds in probed.items()
        ]
    return rows


def _lifted(args: argparse.Namespace, bank: TextBank, density: DensityModel) -> LiftedPixels:
    """The 2D teacher, whose texts are the bank's."""
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_training.evaluation.open_vocabulary_models import LiftedPixels
    from scene_completion_training.foundation.teachers import open_teacher
    from scene_completion_training.viewpoint import Viewpoint

    teacher = open_teacher(
        args.teacher, text_encoder=args.text_encoder, template=bank.template, class_texts=args.class_texts
    )
    if teacher.identity.text_encoder_sha256 != bank.text_encoder_sha256:
        raise ConfigurationError(
            f"texts of {bank.text_encoder or 'no encoder'}, but {args.teacher} is aligned to those of "
            f"{teacher.identity.text_encoder or 'none'}",
            where=str(args.bank),
            cure="Make the bank with the text encoder that the teacher is aligned to",
        )
    camera = Viewpoint.of_bundle(open_student(args.student)).camera
    return LiftedPixels(teacher, density, args.cell, camera, "2D")


def _check(args: argparse.Namespace) -> None:
    if not (args.method or args.bundle or args.teacher or args.prior or args.probed):
        raise ConfigurationError(
            "nothing to score", where="evaluate open-vocabulary", cure="Give --method, --bundle, --teacher or --prior"
        )
    if args.method and not args.space:
        raise ConfigurationError("in whose space", where="--method", cure="Name the text-aligned teacher with --space")
    if args.probed and not args.probe:
        raise ConfigurationError("is not fitted", where="--probed", cure="Give --probe and --train-recordings as well")
    check_methods("--method", [*args.method, *args.probed])
    if args.ensemble and not ((args.method or args.bundle) and args.teacher):
        raise ConfigurationError("of what", where="--ensemble", cure="Give --teacher and --method or --bundle as well")
    if (args.prior or args.probe) and not args.train_recordings:
        raise ConfigurationError(
            "no labelled recordings", where="--train-recordings", cure="Name some for --prior and --probe"
        )
    refuse_scored(args.recordings, {"--train-recordings": args.train_recordings})
