"""`evaluate open-vocabulary`: zero-shot labels and words of voxels, beside controls, ensembles and linear probes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.paths import RESULTS, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import (
    add_methods,
    add_paths,
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
        help="text-aligned teacher, as in `features`, as a control: 2D only",
    )
    parser.add_argument("--text-encoder", type=place, metavar="MODEL", help="text encoder of espnetv2")
    parser.add_argument("--class-texts", type=Path, metavar="FILE", help="phrases of its classes, as in `features`")
    parser.add_argument(
        "--cell", type=int, default=8, metavar="PIXELS", help="pixels along a token's side (default: %(default)s)"
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
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.geometry import voxel_frames
    from scene_completion_training.evaluation.open_vocabulary import (
        COMMON,
        METRICS,
        SEMANTIC_KITTI,
        Asked,
        LabelledFrame,
        ZeroShot,
        label_set_of,
        read_words,
    )
    from scene_completion_training.evaluation.semantic_evaluation import no_voxels
    from scene_completion_training.evaluation.semantic_models import student_density

    _check(args)
    bank, words = TextBank.load(args.bank), read_words(args.words) if args.words else {}
    density, cutoff = student_density(args.student)
    models = _models(args, bank, density)
    recordings, training = (
        [open_recording(folder) for folder in folders] for folders in (args.recordings, args.train_recordings)
    )
    scores = Scores(METRICS)
    for group, label_set in (("towns", SEMANTIC_KITTI), ("windows", COMMON)):
        scored = [sequence for sequence in recordings if label_set_of(sequence) is label_set]
        if not scored:
            continue
        rows = _rows(args, density, models, ZeroShot(bank, label_set, words), training, label_set)
        methods = [Asked(name, model, judge, label_set, cutoff) for name, model, judge in rows]
        frames = (LabelledFrame.of(frame, label_set) for frame in voxel_frames(scored, args.every))
        if not scores.run(f"{group}, {label_set.name}", methods, frames):
            raise no_voxels(scored)
    write_results(args, scores, [sequence.name for sequence in recordings])
    return 0


def _models(args: argparse.Namespace, bank: TextBank, density: DensityModel) -> list[tuple[str, OpenVocabularyModel]]:
    """Name for tables and model, of each seed of each method; the teacher, lifted, comes first."""
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_training.evaluation.open_vocabulary_models import DeployedFeatures, FieldFeatures, Remembered

    models: list[tuple[str, OpenVocabularyModel]] = []
    if args.teacher:
        lifted = _lifted(args, bank, density)
        models.append((lifted.name, Remembered(lifted)))
    for name, *files in args.method:
        models += [(name, Remembered(FieldFeatures.open(Path(file), density, args.space))) for file in files]
    for folder in args.bundle:
        name = f"{folder.resolve().name}, deployed"
        models.append((name, Remembered(DeployedFeatures(open_student(folder), bank, density, name))))
    return models


def _rows(
    args: argparse.Namespace,
    density: DensityModel,
    models: Sequence[tuple[str, OpenVocabularyModel]],
    zero_shot: ZeroShot,
    training: Sequence[PosedSequence],
    label_set: LabelSet,
) -> list[tuple[str, OpenVocabularyModel, Judge]]:
    """Name for tables, model, and what says what its points are."""
    from scene_completion_training.evaluation.linear_probe import probe_models
    from scene_completion_training.evaluation.open_vocabulary_models import ClassPrior, most_frequent

    rows: list[tuple[str, OpenVocabularyModel, Judge]] = []
    if args.prior:
        number = most_frequent(training, label_set, sorted(set(zero_shot.group.tolist())))
        prior = ClassPrior(zero_shot.rows[zero_shot.group == number][0], density)
        rows.append((f"{prior.name}: {label_set.names[number]}", prior, zero_shot))
    rows += [(name, model, zero_shot) for name, model in models]
    if args.probe:
        probes = probe_models([model for _, model in models], training, label_set, every=args.every, seed=args.seed)
        rows += [(f"{name}, linear probe", model, probe) for (name, model), probe in zip(models, probes, strict=True)]
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
    if not (args.method or args.bundle or args.teacher or args.prior):
        raise ConfigurationError(
            "nothing to score", where="evaluate open-vocabulary", cure="Give --method, --bundle, --teacher or --prior"
        )
    if args.method and not args.space:
        raise ConfigurationError("in whose space", where="--method", cure="Name the text-aligned teacher with --space")
    check_methods("--method", args.method)
    if (args.prior or args.probe) and not args.train_recordings:
        raise ConfigurationError(
            "no labelled recordings", where="--train-recordings", cure="Name some for --prior and --probe"
        )
    refuse_scored(args.recordings, {"--train-recordings": args.train_recordings})
