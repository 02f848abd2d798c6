"""Probe features of voxels: how much of the classes a linear layer finds in them.

Scenes are the voxels of frames with ground truth. Probes are fitted to those of --train and scored on those of --test.
Networks of stage `masked_scene` are probed, the same without any training, and what goes into them. So are a student's
label units, and features of a 2D foundation model lifted to the voxels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.paths import RESULTS, Output, place
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import (
    add_methods,
    add_paths,
    check_methods,
    refuse_scored,
    write_results,
)

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_training.evaluation.voxel_features import SceneFrame, VoxelFeatures

TRUE = "true"
"""Scenes of whatever the truth is made of."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion probe``."""
    add_paths(parser, "--train", "FOLDER", "towns and KITTI windows that probes are fitted to", required=True)
    add_paths(parser, "--test", "FOLDER", "towns and KITTI windows that they are scored on", required=True)
    add_methods(
        parser,
        "--method",
        "checkpoints of stage masked_scene under one name, one for each seed; may come several times",
    )
    parser.add_argument(
        "--untrained", type=Path, metavar="CHECKPOINT", help="also its network with random weights, for each of --seeds"
    )
    parser.add_argument("--inputs", action="store_true", help="also what goes into the networks")
    parser.add_argument("--units", action="store_true", help="also the label units of the student")
    parser.add_argument(
        "--foundation", type=place, metavar="MODEL", help="also the features of a DINO, lifted to the voxels"
    )
    parser.add_argument("--layer", type=int, default=-1, help="its hidden layer (default: %(default)s)")
    parser.add_argument(
        "--cell", type=int, default=8, metavar="PIXELS", help="pixels along a feature's side (default: %(default)s)"
    )
    parser.add_argument(
        "--scenes",
        choices=("predicted", "stereo", "exact", "lidar", TRUE),
        default=TRUE,
        help="where voxels come from: the student, stereo depth, the rendered town, LiDAR; or what is exact in a town "
        "and LiDAR elsewhere (default: %(default)s)",
    )
    parser.add_argument("--student", type=Path, metavar="DIR", help="student bundle of predicted voxels and of units")
    parser.add_argument("--cache", type=Output(()), required=True, metavar="DIR", help="where scenes are kept")
    parser.add_argument("--every", type=int, default=5, metavar="N", help="every N-th frame of a town (default: 5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of the probes (default: 0)")
    parser.add_argument("--steps", type=int, default=1000, help="of a linear probe (default: %(default)s)")
    parser.add_argument(
        "--train-voxels", type=int, default=2000, metavar="N", help="of a scene, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--test-voxels", type=int, default=5000, metavar="N", help="of a scene, at most (default: %(default)s)"
    )
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="folder for the result")


def run(args: argparse.Namespace) -> int:
    """Make scenes, fit, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.zero_shot import ZERO_SHOT
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
    from scene_completion_training.evaluation.scene_probe import drawn, fit_probe

    _check(args)
    student = open_student(args.student) if args.student else None
    methods = _methods(args, student)
    train = [scene for scenes in _scenes(args, args.train, student) for scene in scenes]
    fitted = []
    for name, features, seeds in methods:
        for seed in seeds:
            found = (drawn(scene, args.train_voxels, seed) for scene in train)
            scenes = [scene for scene in found if scene is not None]
            fitted.append(fit_probe(name, features, scenes, seed=seed, steps=args.steps))
        print(f"{name}: fitted", flush=True)
    scores, names = Scores([ZERO_SHOT]), []
    for of_recording in _scenes(args, args.test, student):
        sequence = of_recording[0].sequence
        names.append(sequence.name)
        found = (drawn(scene, args.test_voxels) for scene in of_recording)
        group = "towns" if holds_exact_voxels(sequence) else "windows"
        scores.run(group, fitted, [scene for scene in found if scene is not None])
    write_results(args, scores, names)
    return 0


def _scenes(args: argparse.Namespace, folders: Sequence[Path], student: StudentBundle | None) -> list[list[SceneFrame]]:
    """The labelled scenes of each recording."""
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
    from scene_completion_training.evaluation.scene_probe import labelled_scenes
    from scene_completion_training.masked_scene.scenes import Kind, SceneMaker

    found = []
    for sequence in map(open_recording, folders):
        kind: Kind = ("exact" if holds_exact_voxels(sequence) else "lidar") if args.scenes == TRUE else args.scenes
        units = student is not None and student.head.label_hidden > 0
        maker = SceneMaker(sequence, kind, student=student, units=units)
        found.append(labelled_scenes(maker, args.cache, args.every))
    return found


def _methods(args: argparse.Namespace, student: StudentBundle | None) -> list[tuple[str, VoxelFeatures, Sequence[int]]]:
    """Name for tables, features, and the seeds of their probes."""
    from scene_completion_training.evaluation.voxel_features import FoundationFeatures, NetworkFeatures, SceneColumns
    from scene_completion_training.foundation.backbone import Backbone
    from scene_completion_training.viewpoint import STREET_CAMERA, Viewpoint

    methods: list[tuple[str, VoxelFeatures, Sequence[int]]] = []
    if args.inputs:
        methods.append(("inputs", SceneColumns("inputs"), args.seeds))
    if args.units:
        methods.append(("label units", SceneColumns("label units", units=True), args.seeds))
    if args.foundation:
        camera = Viewpoint.of_bundle(student).camera if student else STREET_CAMERA
        lifted = FoundationFeatures(Backbone(args.foundation, args.layer), args.cell, camera, "2D, lifted")
        methods.append((lifted.name, lifted, args.seeds))
    if args.untrained:
        size = NetworkFeatures.open(args.untrained, "untrained")
        methods += [("untrained", size.untrained(seed, "untrained"), [seed]) for seed in args.seeds]
    for name, *files in args.method:
        seeds = args.seeds if len(files) == 1 else args.seeds[:1]
        methods += [(name, NetworkFeatures.open(Path(file), name), seeds) for file in files]
    return methods


def _check(args: argparse.Namespace) -> None:
    if not (args.method or args.untrained or args.inputs or args.units or args.foundation):
        raise ConfigurationError(
            "nothing to probe", where="probe", cure="Give --method, --untrained, --inputs, --units or --foundation"
        )
    if (args.units or args.scenes == "predicted") and args.student is None:
        raise ConfigurationError(
            "--units and predicted scenes are those of a student", where="--student", cure="Name its bundle"
        )
    check_methods("--method", args.method)
    if min(args.every, args.steps, args.train_voxels, args.test_voxels) < 1:
        raise ConfigurationError(
            "counts below 1", where="--every, --steps, --train-voxels, --test-voxels", cure="Take 1 or more"
        )
    refuse_scored(args.test, {"--train": args.train})
