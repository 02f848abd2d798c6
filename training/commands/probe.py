"""Probe features of voxels: how much of the classes a linear layer and nearest neighbours find in them.

Scenes are the voxels of frames with ground truth. Probes are fitted to those of --train and scored on those of --test.
There are probes of all levels of the features, of each level alone, of all but one, and with few labelled scenes and
voxels. Networks of stage `masked_scene` are probed, the same without any training, and what goes into them. So are a
student's label units, and features of a 2D foundation model lifted to the voxels.

DIR gets results.json, results.md, and probe_GROUP.png with all curves where there are any.
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
    asked,
    check_methods,
    refuse_scored,
    write_results,
)

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_training.evaluation.voxel_probe import ProbeSettings
    from scene_completion_training.evaluation.voxel_probe_run import LabelledScene, Method, MethodScores

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
        "--bank", type=int, default=200, metavar="N", help="neighbours of a class, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--train-voxels", type=int, default=2000, metavar="N", help="of a scene, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--test-voxels", type=int, default=5000, metavar="N", help="of a scene, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--whole-only", action="store_true", help="neither single levels nor curves (default: all of them)"
    )
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="folder for the result")


def run(args: argparse.Namespace) -> int:
    """Make scenes, fit, score, print, write and draw."""
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_training.evaluation.voxel_probe_run import is_town, probe_method
    from scene_completion_training.evaluation.voxel_probe_tables import as_json, markdown, write_plots

    _check(args)
    student = open_student(args.student) if args.student else None
    methods, settings = _methods(args, student), _settings(args)
    train = [scene for scenes in _scenes(args, args.train, student) for scene in scenes]
    groups: dict[str, list[LabelledScene]] = {}
    for scenes in _scenes(args, args.test, student):
        groups.setdefault("towns" if is_town(scenes[0].sequence) else "windows", []).extend(scenes)
    results: list[MethodScores] = []
    for method in methods:
        results += probe_method(
            method, train, groups, settings, train_voxels=args.train_voxels, test_voxels=args.test_voxels
        )
        print(f"{method.name}: done", flush=True)
    write_results(args.output, as_json(results, asked(args)), markdown(results))
    write_plots(args.output, results)
    return 0


def _settings(args: argparse.Namespace) -> ProbeSettings:
    from scene_completion_training.evaluation.voxel_probe import ProbeSettings

    if args.whole_only:
        return ProbeSettings(args.steps, args.bank, shares=(), voxels=(), each_level=False)
    return ProbeSettings(args.steps, args.bank)


def _scenes(
    args: argparse.Namespace, folders: Sequence[Path], student: StudentBundle | None
) -> list[list[LabelledScene]]:
    """The labelled scenes of each recording."""
    from scene_completion_training.evaluation.occupancy_run import open_recording
    from scene_completion_training.evaluation.voxel_probe_run import is_town, labelled_scenes
    from scene_completion_training.masked_scene.scenes import Kind, SceneMaker

    found = []
    for sequence in map(open_recording, folders):
        kind: Kind = ("exact" if is_town(sequence) else "lidar") if args.scenes == TRUE else args.scenes
        units = student is not None and student.head.label_hidden > 0
        maker = SceneMaker(sequence, kind, student=student, units=units)
        found.append(labelled_scenes(maker, args.cache, args.every))
    return found


def _methods(args: argparse.Namespace, student: StudentBundle | None) -> list[Method]:
    from scene_completion_training.evaluation.voxel_features import FoundationFeatures, NetworkFeatures, SceneColumns
    from scene_completion_training.evaluation.voxel_probe_run import Method
    from scene_completion_training.foundation.backbone import Backbone
    from scene_completion_training.viewpoint import STREET_CAMERA, Viewpoint

    methods: list[Method] = []
    if args.inputs:
        methods.append(Method("inputs", [(SceneColumns("inputs"), args.seeds)]))
    if args.units:
        methods.append(Method("label units", [(SceneColumns("label units", units=True), args.seeds)]))
    if args.foundation:
        camera = Viewpoint.of_bundle(student).camera if student else STREET_CAMERA
        lifted = FoundationFeatures(Backbone(args.foundation, args.layer), args.cell, camera, "2D, lifted")
        methods.append(Method(lifted.name, [(lifted, args.seeds)]))
    if args.untrained:
        size = NetworkFeatures.open(args.untrained, "untrained")
        methods.append(Method("untrained", [(size.untrained(seed, "untrained"), [seed]) for seed in args.seeds]))
    for name, *files in args.method:
        networks = [NetworkFeatures.open(Path(file), name) for file in files]
        seeds = [args.seeds] if len(files) == 1 else [args.seeds[:1]] * len(files)
        methods.append(Method(name, list(zip(networks, seeds, strict=True))))
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
    if min(args.every, args.train_voxels, args.test_voxels) < 1:
        raise ConfigurationError(
            "counts below 1", where="--every, --train-voxels, --test-voxels", cure="Take 1 or more"
        )
    refuse_scored(args.test, {"--train": args.train})
