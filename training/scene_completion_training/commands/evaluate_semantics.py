"""`evaluate semantics`: classes of completed voxels under S4C's protocol, or the words of a text bank, beside controls.

Without --bank, features of fields are clustered on --cluster-on and named by --name-on. With --bank, voxels are asked
for its words, given the true geometry and as completions. With --sscbench, checkpoints are scored on SSCBench-KITTI-360
by their own density.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.arguments import RESULTS, add_scale_argument, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands import arguments

if TYPE_CHECKING:
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_ros.sequences.frame_lists import FrameSplit
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.evaluation.deployed import DeployedStudent
    from scene_completion_training.evaluation.predictor import Predictor
    from scene_completion_training.evaluation.semantic_evaluation import Sampling

CLUSTERS = 19  # as many as SemanticKITTI has classes
# Pixels along a token's side: of the clustered tokens, and of the teacher that is asked for words.
CLUSTER_CELL, WORD_CELL = 16, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate semantics``."""
    meaning = "towns, with --bank KITTI windows too, with --sscbench data_2d_raw/DRIVE of KITTI-360"
    arguments.add_paths(parser, "--data", "FOLDER", meaning)
    arguments.add_windows(parser)
    arguments.add_paths(
        parser, "--bundle", "DIR", "students as they are deployed, with their own threshold and names of classes"
    )
    meaning = "checkpoints of feature_field or semantics; or of semantic_field, which need no clusters"
    arguments.add_paths(parser, "--checkpoint", "FILE", meaning)
    meaning = "checkpoint of feature_field or semantics, and a linear probe of it that `evaluate segmentation` has "
    meaning += "trained on images; repeatable"
    parser.add_argument(
        "--probed", type=Path, nargs=2, action="append", default=[], metavar=("FILE", "PROBE"), help=meaning
    )
    meaning = "bundle whose density says what is occupied for all others, but with --sscbench"
    parser.add_argument("--student", type=Path, metavar="DIR", help=meaning)
    meaning = "a control: the tokens of this foundation model clustered, or with --bank this text-aligned teacher, as "
    meaning += "in `features`, in 2D only"
    parser.add_argument("--foundation", type=place, metavar="MODEL", help=meaning)
    parser.add_argument("--layer", type=int, default=-1, help="its hidden layer (default: %(default)s)")
    meaning = "a control: the most frequent class of each voxel in --name-on, with --bank of all voxels"
    parser.add_argument("--prior", action="store_true", help=meaning)
    arguments.add_paths(parser, "--cluster-on", "FOLDER", "training recordings to cluster")
    meaning = "labelled training recordings: for the names of clusters and the prior"
    arguments.add_paths(parser, "--name-on", "FOLDER", meaning)
    arguments.add_frames(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of points and clustering (default: %(default)s)")
    arguments.add_number(parser, "--every", 5, "score every N-th frame")
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes results.json and .md")
    arguments.add_engine(parser)
    add_scale_argument(parser, arguments.POSES, "off")
    sscbench = parser.add_argument_group("SSCBench-KITTI-360")
    meaning = "its labels (LABELS/DRIVE/NNNNNN_1_1.npy): score --checkpoint on drives of KITTI-360, data_2d_raw/DRIVE, "
    meaning += "under the protocol of S4C and SceneDINO"
    sscbench.add_argument("--sscbench", type=Path, metavar="LABELS", help=meaning)
    meaning = "a point of each voxel, occupied from 0.2 / m on, or 8 points and 0.25 / m (default: %(default)s)"
    sscbench.add_argument("--sampling", choices=("scenedino", "s4c"), default="scenedino", help=meaning)
    meaning = "frame list for the names of clusters, of --name-on or of --data; none of them may be scored"
    sscbench.add_argument("--name-frames", type=Path, metavar="LIST", help=meaning)
    words = parser.add_argument_group("words")
    meaning = "text bank with SemanticKITTI's classes, and the words: ask for them"
    words.add_argument("--bank", type=Path, metavar="FILE", help=meaning)
    words.add_argument("--words", type=Path, metavar="FILE", help="words and what they mean, as unseen_words.yaml")
    meaning = "name for tables, and checkpoints of stage agglomeration that differ in the seed alone; repeatable"
    arguments.add_methods(words, "--method", meaning)
    meaning = "text-aligned teacher of the methods, whose features are read"
    words.add_argument("--space", metavar="TEACHER", help=meaning)
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
    from scene_completion_training.evaluation.semantic_evaluation import SAMPLINGS

    def labelled(folders: Sequence[Path], split: FrameSplit | None) -> list[tuple[PosedSequence, int]]:
        listed = arguments.listed_folders(folders, split)
        drives = [kitti_360.open_drive(folder, labels=args.sscbench) for folder in listed]
        for drive in () if args.allow_missing else drives:
            kitti_360.check_complete(drive)
        return list(voxel_places(drives, args.every, split))

    split, naming = (arguments.read_frames(named) for named in (args.frames, args.name_frames))
    sampling = SAMPLINGS[args.sampling]
    scored = labelled(args.data, split)
    named = labelled(args.name_on or args.data, naming) if naming or args.name_on else []
    frames = {(sequence.name, sequence.frames[index].stamp_ns) for sequence, index in named}
    if both := sum((sequence.name, sequence.frames[index].stamp_ns) in frames for sequence, index in scored):
        what = f"{both} frames give names to clusters and are scored"
        raise ConfigurationError(what, where="--frames, --name-frames", cure="Name others")
    counted, found = arguments.count_frames(args, split), arguments.count_frames(args, naming)
    fields, models = _fields(args, None, sampling)
    if fields:
        if not named:
            cure = "Name the validation frames, for the names of clusters"
            raise ConfigurationError("no labelled frames", where="--name-frames", cure=cure)
        drives = [kitti_360.open_drive(folder) for folder in args.cluster_on]
        clustered = [(drive, index) for drive in drives for index in range(0, len(drive), args.every)]
        shown, labels = clustered or named, placed_frames(named)
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
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.semantics import SEMANTICS
    from scene_completion_training.evaluation import semantic_evaluation
    from scene_completion_training.evaluation.geometry import voxel_frames

    methods: list[Predictor] = [] if args.student is None else _fitted(args)
    for student in arguments.open_students(args):
        student.names()  # refused before the work
        methods.append(student)
    scores, split = Scores([SEMANTICS]), arguments.read_frames(args.frames)
    opened = {
        group: arguments.open_recordings(folders, split)
        for group, folders in {"towns": args.data, "windows": arguments.window_folders(args)}.items()
    }
    every = [sequence for recordings in opened.values() for sequence in recordings]
    counted = arguments.count_listed(args, every)
    for group, recordings in opened.items():
        if recordings and not scores.run(group, methods, voxel_frames(recordings, args.every, split)):
            raise semantic_evaluation.no_voxels(recordings)
    arguments.write_results(args, scores, [sequence.name for sequence in every], counted=counted)
    return 0


def _fields(
    args: argparse.Namespace, density: DeployedStudent | None, sampling: Sampling
) -> tuple[list[Predictor], list[Predictor]]:
    """Fields that have to be clustered, and those that know classes: learned from labels, or by a probe."""
    from scene_completion_training.checkpoints import Checkpoint
    from scene_completion_training.evaluation.semantic_evaluation import ClassifiedModel, FeatureFieldModel, open_probed
    from scene_completion_training.networks.feature_field import SemanticField

    clustered: list[Predictor] = []
    known: list[Predictor] = []
    for file in args.checkpoint:
        if Checkpoint.read(file).stage_class.field_class is SemanticField:
            name = f"{file.resolve().parent.parent.name} (learned from labels)"
            known.append(ClassifiedModel(FeatureFieldModel.open(file, name, density, SemanticField), sampling))
        else:
            clustered.append(FeatureFieldModel.open(file, density=density))
    return clustered, known + [open_probed(file, probe, density, sampling) for file, probe in args.probed]


def _fitted(args: argparse.Namespace) -> list[Predictor]:
    """What has the density of a student: clusters, probes, learned labels and the prior of classes."""
    from scene_completion_training.evaluation import semantic_evaluation
    from scene_completion_training.evaluation.deployed import open_deployed
    from scene_completion_training.evaluation.geometry import voxel_frames
    from scene_completion_training.evaluation.semantic_evaluation import LiftedTokens, Sampling
    from scene_completion_training.foundation.backbone import Backbone
    from scene_completion_training.viewpoint import Viewpoint

    density = open_deployed(args.student, sources=arguments.sources(args))
    sampling = Sampling(density.cutoff)
    clustered, fitted = _fields(args, density, sampling)
    if (clustered or args.foundation) and not args.cluster_on:
        what = "nothing to cluster"
        raise ConfigurationError(what, where="--cluster-on", cure="Name training recordings; they need no labels")
    if (clustered or args.foundation or args.prior) and not args.name_on:
        raise ConfigurationError("no labelled recordings", where="--name-on", cure="Name some for names and the prior")
    cluster_on, name_on = map(arguments.open_recordings, (args.cluster_on, args.name_on))
    if args.foundation:
        backbone, camera = Backbone(args.foundation, args.layer), Viewpoint.of_bundle(density.bundle).camera
        name = "tokens of the image, lifted"
        clustered.append(LiftedTokens(backbone, density, CLUSTER_CELL, name, cluster_on, camera))
    if clustered:
        frames = ((sequence, index) for sequence in cluster_on for index in range(len(sequence)))
        named = semantic_evaluation.fit_models(
            clustered, sampling, frames, voxel_frames(name_on), clusters=CLUSTERS, seed=args.seed
        )
        fitted = [*named, *fitted]
    if args.prior:
        fitted.append(semantic_evaluation.ClassPrior(density, density.cutoff, name_on))
    return fitted


def _run_words(args: argparse.Namespace) -> int:
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training.evaluation import open_vocabulary, semantic_evaluation
    from scene_completion_training.evaluation.deployed import open_deployed
    from scene_completion_training.evaluation.geometry import voxel_frames

    bank, words = TextBank.load(args.bank), open_vocabulary.read_words(args.words) if args.words else {}
    density = open_deployed(args.student, sources=arguments.sources(args))
    models = _requested(args, bank, density)
    split = arguments.read_frames(args.frames)
    recordings = arguments.open_recordings((*args.data, *arguments.window_folders(args)), split)
    counted = arguments.count_listed(args, recordings)
    training = arguments.open_recordings(args.name_on)
    scores = Scores(open_vocabulary.METRICS)
    for group, label_set in (("towns", open_vocabulary.SEMANTIC_KITTI), ("windows", open_vocabulary.COMMON)):
        scored = [sequence for sequence in recordings if open_vocabulary.label_set_of(sequence) is label_set]
        if not scored:
            continue
        judge = open_vocabulary.ZeroShot(bank, label_set, words)
        prior: list[tuple[str, Predictor]] = []
        if args.prior:
            number = open_vocabulary.most_frequent(training, label_set, sorted(set(judge.group.tolist())))
            model = open_vocabulary.ClassPrior(judge.rows[judge.group == number][0], density)
            prior.append((f"{model.name}: {label_set.names[number]}", model))
        methods = [
            open_vocabulary.Asked(name, model, judge, label_set, density.cutoff) for name, model in [*prior, *models]
        ]
        of = open_vocabulary.LabelledFrame.of
        frames = (of(frame, label_set) for frame in voxel_frames(scored, args.every, split))
        if not scores.run(f"{group}, {label_set.name}", methods, frames):
            raise semantic_evaluation.no_voxels(scored)
    arguments.write_results(args, scores, [sequence.name for sequence in recordings], counted=counted)
    return 0


def _requested(args: argparse.Namespace, bank: TextBank, density: DeployedStudent) -> list[tuple[str, Predictor]]:
    """Name for tables and model, of each seed of each method; the teacher, lifted, comes first."""
    from scene_completion_training.evaluation import open_vocabulary
    from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel
    from scene_completion_training.foundation.teachers import open_teacher
    from scene_completion_training.networks.agglomerated_field import AgglomeratedField
    from scene_completion_training.viewpoint import Viewpoint

    models: list[tuple[str, Predictor]] = []
    if args.foundation:
        teacher = open_teacher(
            args.foundation, text_encoder=args.text_encoder, template=bank.template, class_texts=args.class_texts
        )
        if teacher.identity.text_encoder_sha256 != bank.text_encoder_sha256:
            own, aligned = bank.text_encoder or "no encoder", teacher.identity.text_encoder or "none"
            what = f"texts of {own}, but {args.foundation} is aligned to those of {aligned}"
            cure = "Make the bank with the text encoder that the teacher is aligned to"
            raise ConfigurationError(what, where=str(args.bank), cure=cure)
        camera = Viewpoint.of_bundle(density.bundle).camera
        lifted = open_vocabulary.LiftedPixels(teacher, density, WORD_CELL, camera, "2D")
        models.append((lifted.name, lifted))
    for name, *files in args.method:
        models += [(name, FeatureFieldModel.open(Path(f), name, density, AgglomeratedField, args.space)) for f in files]
    for student in arguments.open_students(args):
        name = f"{student.name}, deployed"
        models.append((name, open_vocabulary.DeployedFeatures(student, bank, density, name)))
    return models


def _check(args: argparse.Namespace) -> None:
    arguments.check_recordings(args, "semantics")
    if args.bank is None and (alone := [name for name in ("words", "method") if getattr(args, name)]):
        raise ConfigurationError("asks for words", where=f"--{alone[0]}", cure="Give --bank")
    if args.bank and (args.checkpoint or args.probed):
        what = "has no words"
        raise ConfigurationError(what, where="--checkpoint, --probed", cure="Name those of words with --method")
    if args.name_frames and not args.sscbench:
        raise ConfigurationError("names nothing", where="--name-frames", cure="Give --sscbench, or --name-on alone")
    undeployed = bool(args.checkpoint or args.probed or args.method or args.foundation or args.prior)
    if not (undeployed or args.bundle):
        cure = "Give --bundle, --checkpoint, --probed, --method, --foundation or --prior"
        raise ConfigurationError("nothing to score", where="evaluate semantics", cure=cure)
    others = ("bank", "bundle", "foundation", "prior", "student", "windows")
    if args.sscbench and (wrong := [name for name in others if getattr(args, name)]):
        what = "checkpoints alone are scored on SSCBench"
        raise ConfigurationError(what, where=f"--{wrong[0]}", cure="Leave it out, or --sscbench")
    if args.scale_from != "off" and not (args.bundle or args.student):
        what = "tells bundles, and there is none"
        raise ConfigurationError(what, where="--scale-from", cure="Leave it out, or name --bundle or --student")
    if not args.sscbench and (undeployed or args.bank is not None) != (args.student is not None):
        what = "only --checkpoint, --probed, --foundation, --prior and --bank need it, and all of them do"
        cure = "Give the bundle whose density they have, and leave it out where --bundle alone is scored"
        raise ConfigurationError(what, where="--student", cure=cure)
    runs = [file.resolve().parent.parent.name for file in args.checkpoint]
    runs += [folder.resolve().name for folder in args.bundle]
    arguments.check_names(runs, "--checkpoint, --bundle")
    if args.method and not args.space:
        raise ConfigurationError("in whose space", where="--method", cure="Name the text-aligned teacher with --space")
    arguments.check_methods("--method", args.method)
    if args.bank and args.prior and not args.name_on:
        raise ConfigurationError("no labelled recordings", where="--name-on", cure="Name some for --prior")
    named = {} if args.sscbench else {"--name-on": args.name_on}  # of a drive, other frames may be
    arguments.refuse_scored(args.data, {"--cluster-on": args.cluster_on, **named})
