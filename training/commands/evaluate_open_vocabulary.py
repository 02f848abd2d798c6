"""`evaluate open-vocabulary`: zero-shot labels and words of voxels, beside controls, ensembles and linear probes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_paths, asked, refuse_scored, write_results

if TYPE_CHECKING:
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.evaluation.density_model import DensityModel
    from scene_completion_training.evaluation.open_vocabulary import Judge, LabelSet, OpenVocabularyModel, ZeroShot
    from scene_completion_training.evaluation.open_vocabulary_models import LiftedPixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate open-vocabulary``."""
    parser.add_argument(
        "--method",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "FILE"),
        help="name for tables, and checkpoints of stage agglomeration that differ in the seed alone; repeatable",
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
        metavar="MODEL",
        help="text-aligned teacher, as in `features`, for controls: 2D only, on rendered surfaces, by true depth",
    )
    parser.add_argument("--text-encoder", metavar="MODEL", help="text encoder of espnetv2")
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
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="takes results.json and .md")


def run(args: argparse.Namespace) -> int:
    """Score all methods, print and write."""
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training.evaluation.occupancy_run import open_recording
    from scene_completion_training.evaluation.open_vocabulary import (
        COMMON,
        SEMANTIC_KITTI,
        ZeroShot,
        evaluate_model,
        label_set_of,
        read_words,
    )
    from scene_completion_training.evaluation.open_vocabulary_tables import MethodScores, as_json, markdown
    from scene_completion_training.evaluation.semantic_models import student_density

    _check(args)
    bank, words = TextBank.load(args.bank), read_words(args.words) if args.words else {}
    density, cutoff = student_density(args.student)
    lifted = _lifted(args, bank, density) if args.teacher else None
    recordings, training = (
        [open_recording(folder) for folder in folders] for folders in (args.recordings, args.train_recordings)
    )
    results = []
    for group, label_set in (("towns", SEMANTIC_KITTI), ("windows", COMMON)):
        scored = [sequence for sequence in recordings if label_set_of(sequence) is label_set]
        if not scored:
            continue
        zero_shot = ZeroShot(bank, label_set, words)
        for name, seeds in _methods(args, density, lifted, zero_shot, training, label_set):
            scores = [evaluate_model(*seed, scored, label_set, cutoff, args.every) for seed in seeds]
            results.append(MethodScores(group, label_set.name, name, scores, words))
    write_results(args.output, as_json(results, asked(args)), markdown(results))
    return 0


def _methods(
    args: argparse.Namespace,
    density: DensityModel,
    lifted: LiftedPixels | None,
    zero_shot: ZeroShot,
    training: Sequence[PosedSequence],
    label_set: LabelSet,
) -> Iterator[tuple[str, list[tuple[OpenVocabularyModel, Judge]]]]:
    """Name of each method, and its seeds: a model, and what says what its points are."""
    from scene_completion_training.evaluation.linear_probe import probe_model
    from scene_completion_training.evaluation.open_vocabulary_models import (
        ClassPrior,
        Ensemble,
        FieldFeatures,
        OnSurface,
        OracleLift,
        most_frequent,
    )

    def probed(models: Sequence[OpenVocabularyModel]) -> list[tuple[OpenVocabularyModel, Judge]]:
        return [(model, probe_model(model, training, label_set, every=args.every, seed=args.seed)) for model in models]

    if args.prior:
        number = most_frequent(training, label_set, sorted(set(zero_shot.group.tolist())))
        prior = ClassPrior(zero_shot.rows[zero_shot.group == number][0], density)
        yield f"{prior.name}: {label_set.names[number]}", [(prior, zero_shot)]
    flat: list[OpenVocabularyModel] = []
    if lifted is not None:
        flat = [lifted, OnSurface(lifted, f"{lifted.name} on the rendered surface")]
        for control in (*flat, OracleLift(lifted, f"{lifted.name} lifted by true depth")):
            yield control.name, [(control, zero_shot)]
        if args.probe:
            yield f"{lifted.name}, linear probe", probed([lifted])
    for name, *files in args.method:
        models = [FieldFeatures.open(Path(file), density, args.space) for file in files]
        yield name, [(model, zero_shot) for model in models]
        for rule, rows in (("max", zero_shot.rows), ("mean", None)) if args.ensemble else ():
            for other in flat:
                together = f"{name} + {other.name}, {rule}"
                yield together, [(Ensemble(model, other, together, rows), zero_shot) for model in models]
        if args.probe:
            yield f"{name}, linear probe", probed(models)


def _lifted(args: argparse.Namespace, bank: TextBank, density: DensityModel) -> LiftedPixels:
    """The 2D teacher, whose texts are the bank's."""
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_training.evaluation.open_vocabulary_models import LiftedPixels
    from scene_completion_training.foundation.teachers import open_teacher
    from scene_completion_training.viewpoint import Viewpoint

    teacher = open_teacher(args.teacher, text_encoder=args.text_encoder, template=bank.template)
    if teacher.identity.text_encoder_sha256 != bank.text_encoder_sha256:
        raise ConfigurationError(
            f"texts of {bank.text_encoder or 'no encoder'}, but {args.teacher} is aligned to those of "
            f"{teacher.identity.text_encoder or 'none'}",
            where=str(args.bank),
            cure="Make the bank with the text encoder that the teacher is aligned to",
        )
    camera = Viewpoint.of_bundle(StudentBundle.load(args.student)).camera
    return LiftedPixels(teacher, density, args.cell, camera, "2D")


def _check(args: argparse.Namespace) -> None:
    if not (args.method or args.teacher or args.prior):
        raise ConfigurationError(
            "nothing to score", where="evaluate open-vocabulary", cure="Give --method, --teacher or --prior"
        )
    if args.method and not args.space:
        raise ConfigurationError("in whose space", where="--method", cure="Name the text-aligned teacher with --space")
    names = [name for name, *_ in args.method]
    for name, *files in args.method:
        if not files or names.count(name) > 1:
            raise ConfigurationError(
                f"{name} {'comes twice' if files else 'has no checkpoint'}",
                where="--method",
                cure="Give each method a name of its own, and then its checkpoints",
            )
        if missing := [file for file in files if not Path(file).is_file()]:  # found before hours of other methods
            raise ConfigurationError(f"no file {', '.join(missing)}", where=f"--method {name}", cure="Name checkpoints")
    if args.ensemble and not (args.method and args.teacher):
        raise ConfigurationError("of what", where="--ensemble", cure="Give --method and --teacher as well")
    if (args.prior or args.probe) and not args.train_recordings:
        raise ConfigurationError(
            "no labelled recordings", where="--train-recordings", cure="Name some for --prior and --probe"
        )
    refuse_scored(args.recordings, {"--train-recordings": args.train_recordings})
