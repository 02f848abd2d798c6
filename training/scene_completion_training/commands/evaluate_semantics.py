"""`evaluate semantics`: unsupervised semantic completion under S4C's protocol, beside its controls."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.paths import RESULTS, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import (
    add_engine,
    add_paths,
    add_windows,
    check_recordings,
    refuse_scored,
    window_folders,
    write_results,
)

if TYPE_CHECKING:
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.evaluation.density_model import DensityModel
    from scene_completion_training.evaluation.semantic_evaluation import ScoredModel
    from scene_completion_training.evaluation.semantic_models import SemanticModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate semantics``."""
    meaning = "checkpoints of feature_field or semantics, or of supervised, which needs no clusters and no names"
    add_paths(parser, "--checkpoint", "FILE", meaning)
    add_paths(parser, "--bundle", "DIR", "students as they are deployed, with their own threshold and names of classes")
    parser.add_argument(
        "--student", type=Path, metavar="DIR", help="bundle whose density says what is occupied for all others"
    )
    parser.add_argument(
        "--foundation",
        type=place,
        metavar="MODEL",
        help="foundation model of the control: its tokens clustered",
    )
    parser.add_argument("--layer", type=int, default=-1, help="its hidden layer (default: %(default)s)")
    parser.add_argument(
        "--prior", action="store_true", help="a control: the most frequent class of each voxel in --name-on"
    )
    add_paths(parser, "--data", "FOLDER", "towns to score on")
    add_windows(parser)
    add_paths(parser, "--cluster-on", "FOLDER", "training recordings to cluster")
    meaning = "labelled training recordings: for the names of clusters and the prior"
    add_paths(parser, "--name-on", "FOLDER", meaning)
    parser.add_argument("--clusters", type=int, default=19, help="number of clusters (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of points and clustering (default: %(default)s)")
    parser.add_argument("--every", type=int, default=5, metavar="N", help="score every N-th frame (default: 5)")
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes results.json and .md")
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Cluster, name, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.semantic_completion import SEMANTICS
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.deployed_model import DeployedLabels
    from scene_completion_training.evaluation.geometry import voxel_frames
    from scene_completion_training.evaluation.semantic_evaluation import Labels, no_voxels

    _check(args)
    fitted: list[ScoredModel] = [] if args.student is None else _fitted(args, args.student)
    fitted += [DeployedLabels.open(folder, engine=args.engine, threads=args.threads) for folder in args.bundle]
    scores, names = Scores([SEMANTICS]), []
    for group, folders in {"towns": args.data, "windows": window_folders(args)}.items():
        recordings = [open_recording(folder) for folder in folders]
        names += [sequence.name for sequence in recordings]
        if recordings and not scores.run(
            group, [Labels(model) for model in fitted], voxel_frames(recordings, args.every)
        ):
            raise no_voxels(recordings)
    write_results(args, scores, names)
    return 0


def _fitted(args: argparse.Namespace, student: Path) -> list[ScoredModel]:
    """What has the density of a student: clusters, probes, learned labels and the prior of classes."""
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.semantic_evaluation import ClassPrior, fit_models, open_supervised
    from scene_completion_training.evaluation.semantic_models import student_density

    density, cutoff = student_density(student)
    cluster_on, name_on = ([open_recording(f) for f in folders] for folders in (args.cluster_on, args.name_on))
    supervised = _supervised(args.checkpoint)
    _check_recordings(args, bool(args.foundation or len(supervised) < len(args.checkpoint)))
    models = _models(args, supervised, density, cluster_on)
    fitted: list[ScoredModel] = []
    if models:
        fitted += fit_models(models, cutoff, cluster_on, name_on, clusters=args.clusters, seed=args.seed)
    fitted += [open_supervised(file, density, cutoff) for file in supervised]
    if args.prior:
        fitted.append(ClassPrior(density, cutoff, name_on))
    return fitted


def _supervised(files: list[Path]) -> list[Path]:
    """The checkpoints that have learned from labels."""
    from scene_completion_training.checkpoints import Checkpoint
    from scene_completion_training.networks.feature_field import ClassField

    return [file for file in files if Checkpoint.read(file).stage_class.field_class is ClassField]


def _models(
    args: argparse.Namespace, supervised: list[Path], density: DensityModel, cluster_on: list[PosedSequence]
) -> list[SemanticModel]:
    """What has to be clustered."""
    from scene_completion_training.evaluation.semantic_models import FeatureFieldModel, LiftedTokens

    models: list[SemanticModel] = [
        FeatureFieldModel.open(file, density=density) for file in args.checkpoint if file not in supervised
    ]
    if args.foundation:
        from scene_completion_ros.inference.shipped import open_student
        from scene_completion_training.foundation.backbone import Backbone
        from scene_completion_training.viewpoint import Viewpoint

        lifted = LiftedTokens(
            Backbone(args.foundation, args.layer),
            density,
            16,
            "tokens of the image, lifted",
            cluster_on,
            Viewpoint.of_bundle(open_student(args.student)).camera,
        )
        models.append(lifted)
    return models


def _check_recordings(args: argparse.Namespace, clustered: bool) -> None:
    if clustered and not args.cluster_on:
        raise ConfigurationError(
            "nothing to cluster", where="--cluster-on", cure="Name training recordings; they need no labels"
        )
    if (clustered or args.prior) and not args.name_on:
        raise ConfigurationError("no labelled recordings", where="--name-on", cure="Name some for names and the prior")


def _check(args: argparse.Namespace) -> None:
    check_recordings(args, "semantics")
    undeployed = bool(args.checkpoint or args.foundation or args.prior)
    if not (undeployed or args.bundle):
        raise ConfigurationError(
            "nothing to score", where="evaluate semantics", cure="Give --bundle, --checkpoint, --foundation or --prior"
        )
    if undeployed != (args.student is not None):
        raise ConfigurationError(
            "only --checkpoint, --foundation and --prior need it, and all of them do",
            where="--student",
            cure="Give the bundle whose density they have, and leave it out where --bundle alone is scored",
        )
    runs = [file.resolve().parent.parent.name for file in args.checkpoint]
    runs += [folder.resolve().name for folder in args.bundle]
    twice = sorted({name for name in runs if runs.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"several are called {', '.join(twice)}",
            where="--checkpoint, --bundle",
            cure="A model is called like its bundle or the folder of its run: give the folders different names",
        )
    refuse_scored(args.data, {"--cluster-on": args.cluster_on, "--name-on": args.name_on})
