"""`evaluate semantics`: classes of completed voxels under S4C's protocol, or the words of a text bank, with controls.

Without --bank, features of fields are clustered on --cluster-on and named by --name-on. With --bank, voxels are
compared with its words, given the true geometry and as completions. With --sscbench, checkpoints are scored on
SSCBench-KITTI-360 by their own density.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.commands.arguments import add_scale_argument, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands import arguments

if TYPE_CHECKING:
    from scene_completion_ros.evaluation.metric import Metric
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_ros.sequences.frame_lists import FrameSplit
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.evaluation.deployed import DeployedStudent
    from scene_completion_training.evaluation.open_vocabulary import LabelSet
    from scene_completion_training.evaluation.predictor import Predictor

CLUSTERS = 19  # as many as SemanticKITTI has classes
# Pixels along a token's side: of the clustered tokens, and of the teacher whose features are compared with words.
CLUSTER_CELL, WORD_CELL = 16, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate semantics``."""
    meaning = "towns, with --bank KITTI windows too, with --sscbench data_2d_raw/DRIVE of KITTI-360"
    arguments.add_paths(parser, "--data", "FOLDER", meaning)
    arguments.add_windows(parser)
    arguments.add_paths(
        parser, "--bundle", "DIR", "students as they are deployed, with their own threshold and names of classes"
    )
    meaning = "checkpoints of feature_field or semantics; with --bank of agglomeration, in the space of the bank's "
    meaning += "text encoder"
    arguments.add_paths(parser, "--checkpoint", "FILE", meaning)
    meaning = "checkpoint of feature_field or semantics, and a linear probe of it that `evaluate segmentation` has "
    meaning += "trained on images; repeatable"
    parser.add_argument(
        "--probed", type=Path, nargs=2, action="append", default=[], metavar=("FILE", "PROBE"), help=meaning
    )
    meaning = "bundle whose density decides what is occupied for all others, but with --sscbench"
    parser.add_argument("--student", type=Path, metavar="DIR", help=meaning)
    meaning = "a control: the tokens of this foundation model (and hidden layer) clustered, or with --bank this "
    meaning += "text-aligned teacher, as in `features`, in 2D only"
    arguments.add_foundation(parser, meaning)
    arguments.add_paths(parser, "--cluster-on", "FOLDER", "training recordings to cluster")
    meaning = "labelled training recordings that name clusters, and give a control, the most frequent class: of each "
    meaning += "voxel, with --bank of all voxels"
    arguments.add_paths(parser, "--name-on", "FOLDER", meaning)
    arguments.add_frames(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of points and clustering (default: %(default)s)")
    arguments.add_number(parser, "--every", 5, "score every N-th frame")
    arguments.add_engine(parser)
    add_scale_argument(parser, arguments.POSES, "off")
    sscbench = parser.add_argument_group("SSCBench-KITTI-360")
    meaning = "its labels (LABELS/DRIVE/NNNNNN_1_1.npy): score --checkpoint on drives of KITTI-360, data_2d_raw/DRIVE, "
    meaning += "under the protocol of SceneDINO"
    sscbench.add_argument("--sscbench", type=Path, metavar="LABELS", help=meaning)
    meaning = "frame list for the names of clusters, of --name-on or of --data; none of them may be scored"
    sscbench.add_argument("--name-frames", type=Path, metavar="LIST", help=meaning)
    words = parser.add_argument_group("words")
    meaning = "text bank with SemanticKITTI's classes, and the words: compare voxels with them"
    words.add_argument("--bank", type=Path, metavar="FILE", help=meaning)
    words.add_argument("--words", type=Path, metavar="FILE", help="words and what they mean, as unseen_words.yaml")
    words.add_argument("--text-encoder", type=place, metavar="MODEL", help="text encoder of espnetv2")
    words.add_argument("--class-texts", type=Path, metavar="FILE", help="phrases of its classes, as in `features`")


def run(args: argparse.Namespace) -> int:
    """Fit what has to be fitted, score, print and write."""
    _check(args)
    if args.sscbench:
        return _run_sscbench(args)
    return _run_words(args) if args.bank else _run_classes(args)


def _run_sscbench(args: argparse.Namespace) -> int:
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.semantics import SSCBENCH, match_cityscapes
    from scene_completion_ros.sequences import kitti_360
    from scene_completion_training.evaluation import semantic_evaluation
    from scene_completion_training.evaluation.geometry import placed_frames, voxel_places

    def labelled(folders: Sequence[Path], split: FrameSplit | None) -> list[tuple[PosedSequence, int]]:
        listed = arguments.listed_folders(folders, split)
        drives = [kitti_360.kitti_360(folder, labels=args.sscbench) for folder in listed]
        for drive in () if args.allow_missing else drives:
            kitti_360.check_complete(drive)
        return list(voxel_places(drives, args.every, split))

    split, naming = (arguments.read_frames(named) for named in (args.frames, args.name_frames))
    scored = labelled(args.data, split)
    named = labelled(args.name_on or args.data, naming) if naming or args.name_on else []
    frames = {(sequence.name, sequence.frames[index].stamp_ns) for sequence, index in named}
    if both := sum((sequence.name, sequence.frames[index].stamp_ns) in frames for sequence, index in scored):
        what = f"{both} frames give names to clusters and are scored"
        raise ConfigurationError(what, where="--frames, --name-frames", cure="Name others")
    counted, found = arguments.count_frames(args, split), arguments.count_frames(args, naming)
    fields, models = _fields(args, None)
    if fields:
        if not named:
            cure = "Name the validation frames, for the names of clusters"
            raise ConfigurationError("no labelled frames", where="--name-frames", cure=cure)
        drives = [kitti_360.kitti_360(folder) for folder in args.cluster_on]
        clustered = [(drive, index) for drive in drives for index in range(0, len(drive), args.every)]
        shown, labels, sampling = clustered or named, placed_frames(named), semantic_evaluation.SCENEDINO
        models += semantic_evaluation.fit_models(
            fields, sampling, shown, labels, clusters=CLUSTERS, seed=args.seed, match=match_cityscapes
        )
    scores = Scores([SSCBENCH])
    if not scores.run("SSCBench-KITTI-360", models, placed_frames(scored)):
        raise semantic_evaluation.no_voxels("--data and --frames")
    names = list(dict.fromkeys(sequence.name for sequence, _ in scored))
    arguments.write_results(args, scores, names, counted=counted, named=found)
    return 0


def _run_classes(args: argparse.Namespace) -> int:
    from scene_completion_ros.evaluation.semantics import SEMANTICS

    methods: list[Predictor] = [] if args.student is None else _fitted(args)
    for student in arguments.open_students(args):
        student.names()  # refused before the work
        methods.append(student)
    return _scored(args, [SEMANTICS], lambda _: methods)


def _scored(args: argparse.Namespace, metrics: Sequence[Metric], methods: Callable[[LabelSet], Sequence[Any]]) -> int:
    """Score the methods of a label set on towns and on windows, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_training.evaluation import open_vocabulary, semantic_evaluation
    from scene_completion_training.evaluation.geometry import voxel_frames

    scores, (recordings, split, counted) = Scores(metrics), arguments.open_listed(args)
    for group, label_set in (("towns", open_vocabulary.SEMANTIC_KITTI), ("windows", open_vocabulary.COMMON)):
        scored = [sequence for sequence in recordings if open_vocabulary.label_set_of(sequence) is label_set]
        name = f"{group}, {label_set.name}" if args.bank else group
        if scored and not scores.run(name, methods(label_set), voxel_frames(scored, args.every, split)):
            raise semantic_evaluation.no_voxels(scored)
    arguments.write_results(args, scores, [sequence.name for sequence in recordings], counted=counted)
    return 0


def _fields(args: argparse.Namespace, density: DeployedStudent | None) -> tuple[list[Predictor], list[Predictor]]:
    """Fields that have to be clustered, and those that know classes by a probe.

    `density`: decides what is occupied; without one each field is read as SceneDINO is.
    """
    from scene_completion_training.evaluation import semantic_evaluation
    from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel, Sampling

    sampling = Sampling(density.cutoff) if density else semantic_evaluation.SCENEDINO
    clustered: list[Predictor] = [FeatureFieldModel.open(file, density=density) for file in args.checkpoint]
    return clustered, [semantic_evaluation.open_probed(file, probe, density, sampling) for file, probe in args.probed]


def _fitted(args: argparse.Namespace) -> list[Predictor]:
    """What has the density of a student: clusters, probes and the prior of classes."""
    from scene_completion_training.evaluation import semantic_evaluation
    from scene_completion_training.evaluation.deployed import open_deployed
    from scene_completion_training.evaluation.geometry import voxel_frames
    from scene_completion_training.evaluation.semantic_evaluation import LiftedTokens, Sampling
    from scene_completion_training.foundation.backbone import Backbone
    from scene_completion_training.viewpoint import Viewpoint

    density = open_deployed(args.student, scale_from=args.scale_from)
    clustered, fitted = _fields(args, density)
    if (clustered or args.foundation) and not args.cluster_on:
        what = "nothing to cluster"
        raise ConfigurationError(what, where="--cluster-on", cure="Name training recordings; they need no labels")
    if (clustered or args.foundation) and not args.name_on:
        raise ConfigurationError("no labelled recordings", where="--name-on", cure="Name some for the names")
    cluster_on, name_on = map(arguments.open_recordings, (args.cluster_on, args.name_on))
    if args.foundation:
        backbone, camera = Backbone(*arguments.foundation(args)), Viewpoint.of_bundle(density.bundle).camera
        name = "tokens of the image, lifted"
        clustered.append(LiftedTokens(backbone, density, CLUSTER_CELL, camera, name, cluster_on))
    if clustered:
        frames = ((sequence, index) for sequence in cluster_on for index in range(len(sequence)))
        named = semantic_evaluation.fit_models(
            clustered, Sampling(density.cutoff), frames, voxel_frames(name_on), clusters=CLUSTERS, seed=args.seed
        )
        fitted = [*named, *fitted]
    if name_on:
        fitted.append(semantic_evaluation.ClassPrior(density, density.cutoff, name_on))
    return fitted


def _run_words(args: argparse.Namespace) -> int:
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training.evaluation import open_vocabulary
    from scene_completion_training.evaluation.deployed import open_deployed

    bank, words = TextBank.load(args.bank), open_vocabulary.read_words(args.words) if args.words else {}
    density = open_deployed(args.student, scale_from=args.scale_from)
    models, training = _with_words(args, bank, density), arguments.open_recordings(args.name_on)

    def methods(label_set: LabelSet) -> list[open_vocabulary.Asked]:
        judge = open_vocabulary.ZeroShot(bank, label_set, words)
        prior: list[Predictor] = []
        if training:
            number = open_vocabulary.most_frequent(training, label_set, sorted(set(judge.group.tolist())))
            row = judge.rows[judge.group == number][0]
            prior.append(open_vocabulary.ClassPrior(label_set.names[number], row, density))
        return [open_vocabulary.Asked(model, judge, label_set, density.cutoff) for model in [*prior, *models]]

    return _scored(args, open_vocabulary.METRICS, methods)


def _with_words(args: argparse.Namespace, bank: TextBank, density: DeployedStudent) -> list[Predictor]:
    """What has features in the space of a bank; the teacher, lifted, comes first."""
    from scene_completion_training.checkpoints import Checkpoint
    from scene_completion_training.evaluation import open_vocabulary
    from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel, LiftedTokens
    from scene_completion_training.export import asked_teacher
    from scene_completion_training.foundation.encoded_words import PhraseList, read_phrases
    from scene_completion_training.foundation.teachers import open_teacher
    from scene_completion_training.viewpoint import Viewpoint

    models: list[Predictor] = []
    if args.foundation:
        words = replace(read_phrases(args.class_texts) if args.class_texts else PhraseList(), template=bank.template)
        teacher = open_teacher(*arguments.foundation(args), text_encoder=args.text_encoder, words=words)
        if teacher.identity.text_encoder_sha256 != bank.text_encoder_sha256:
            own, aligned = bank.text_encoder or "no encoder", teacher.identity.text_encoder or "none"
            what = f"texts of {own}, but {args.foundation[0]} is aligned to those of {aligned}"
            cure = "Make the bank with the text encoder that the teacher is aligned to"
            raise ConfigurationError(what, where=str(args.bank), cure=cure)
        models.append(LiftedTokens(teacher, density, WORD_CELL, Viewpoint.of_bundle(density.bundle).camera, "2D"))
    for file in args.checkpoint:
        models.append(FeatureFieldModel.open(file, density, asked_teacher(Checkpoint.read(file), bank)))
    models += [open_vocabulary.DeployedFeatures(one, bank, density) for one in arguments.open_students(args)]
    return models


def _check(args: argparse.Namespace) -> None:
    arguments.check_recordings(args, "semantics")
    if args.words and not args.bank:
        raise ConfigurationError("no words without their embeddings", where="--words", cure="Give --bank")
    if args.bank and args.probed:
        raise ConfigurationError("has no words", where="--probed", cure="Leave it out, or --bank")
    if args.name_frames and not args.sscbench:
        raise ConfigurationError("names nothing", where="--name-frames", cure="Give --sscbench, or --name-on alone")
    undeployed = bool(args.checkpoint or args.probed or args.foundation or (args.name_on and not args.sscbench))
    if not (undeployed or args.bundle):
        cure = "Give --bundle, --checkpoint, --probed, --foundation, or --name-on for the prior"
        raise ConfigurationError("nothing to score", where="evaluate semantics", cure=cure)
    others = ("bank", "bundle", "foundation", "student", "windows")
    if args.sscbench and (wrong := [name for name in others if getattr(args, name)]):
        what = "checkpoints alone are scored on SSCBench"
        raise ConfigurationError(what, where=f"--{wrong[0]}", cure="Leave it out, or --sscbench")
    if args.scale_from != "off" and not (args.bundle or args.student):
        what = "is for bundles, and there is none"
        raise ConfigurationError(what, where="--scale-from", cure="Leave it out, or name --bundle or --student")
    if not args.sscbench and (undeployed or args.bank is not None) != (args.student is not None):
        what = "only --checkpoint, --probed, --foundation, --name-on and --bank need it, and all of them do"
        cure = "Give the bundle whose density they have, and leave it out where --bundle alone is scored"
        raise ConfigurationError(what, where="--student", cure=cure)
    arguments.check_names(args)
    named = {} if args.sscbench else {"--name-on": args.name_on}  # of a drive, other frames may be
    arguments.refuse_scored(args.data, {"--cluster-on": args.cluster_on, **named})
