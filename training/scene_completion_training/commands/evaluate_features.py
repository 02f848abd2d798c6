"""`evaluate features`: whether features look the same from two views, or what classes a probe finds in them.

Without --train, features of fields are compared from two views, beside the tokens they were learned from. With it,
linear probes are fitted to the labelled voxels of --train and scored on those of --data and --windows: of networks of
stage `masked_scene`, the same without any training, what goes into them, a student's label units, and features of a 2D
foundation model lifted to the voxels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.paths import RESULTS, Output, place
from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.commands.arguments import (
    add_methods,
    add_paths,
    add_windows,
    check_methods,
    check_recordings,
    refuse_scored,
    window_folders,
    write_results,
)

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_training.evaluation.voxel_features import SceneFrame, VoxelFeatures

VIEW_STEP = 3
"""Frames to the later view of a pair."""
STRIDE = 4
"""Every so many-th pixel is compared."""
VIEW_CELL, PROBE_CELL = 16, 8
"""Pixels along a token's side: of the tokens that are compared, and of those that are probed."""
PROBE_STEPS = 1000
TRAIN_VOXELS, TEST_VOXELS = 2000, 5000
"""Voxels of a scene, at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate features``."""
    add_paths(parser, "--data", "FOLDER", "recordings with a stereo pair, or with exact depth; towns for probes")
    add_windows(parser)
    add_paths(parser, "--checkpoint", "FILE", "checkpoints of feature_field")
    parser.add_argument(
        "--foundation",
        type=place,
        metavar="MODEL",
        help="foundation model whose tokens they have learned from; for probes a DINO whose features are lifted",
    )
    parser.add_argument("--layer", type=int, default=-1, help="its hidden layer (default: %(default)s)")
    parser.add_argument("--every", type=int, default=5, metavar="N", help="of every N-th frame (default: %(default)s)")
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes results.json and .md")
    probes = parser.add_argument_group("probes")
    add_paths(probes, "--train", "FOLDER", "towns and KITTI windows that probes are fitted to")
    meaning = "checkpoints of stage masked_scene under one name, one for each seed; may come several times"
    add_methods(probes, "--method", meaning)
    probes.add_argument(
        "--untrained", type=Path, metavar="CHECKPOINT", help="also its network with random weights, for each of --seeds"
    )
    probes.add_argument("--inputs", action="store_true", help="also what goes into the networks")
    probes.add_argument("--units", type=Path, metavar="BUNDLE", help="also the label units of this student")
    probes.add_argument("--cache", type=Output(()), metavar="DIR", help="where scenes are kept")
    probes.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of the probes (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Compare or probe, print and write."""
    check_recordings(args, "features")
    if args.every < 1:
        raise ConfigurationError(f"every {args.every} frames", where="--every", cure="Give a positive number")
    return _run_probes(args) if args.train else _run_views(args)


def _run_views(args: argparse.Namespace) -> int:
    from scene_completion_ros.evaluation.feature_consistency import FEATURES
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.evaluation.feature_evaluation import (
        Compared,
        FeatureImages,
        FieldFeatures,
        compared_camera,
        token_rows,
        view_pairs,
    )
    from scene_completion_training.foundation.backbone import Backbone

    if not (args.checkpoint and args.foundation):
        cure = "Give --checkpoint and --foundation; or --train, to probe"
        raise ConfigurationError("nothing to compare", where="evaluate features", cure=cure)
    fields = [FieldFeatures.open(file, STRIDE) for file in args.checkpoint]
    full = fields[0].field.camera
    if any(field.field.camera != full for field in fields):
        raise ConfigurationError(
            "trained with different canonical cameras", where="--checkpoint", cure="Compare them one after the other"
        )
    camera = compared_camera(full, STRIDE)
    backbone = Backbone(args.foundation, args.layer)
    methods: list[FeatureImages] = [*fields, *token_rows(fields, backbone, VIEW_CELL, full, camera)]
    if len({method.name for method in methods}) < len(methods):
        raise ConfigurationError(
            f"equal names {[method.name for method in methods]}", where="--checkpoint", cure="Rename a run's folder"
        )
    scores, names = Scores([FEATURES]), []
    for group, folders in {"recordings": args.data, "windows": window_folders(args)}.items():
        recordings = [open_recording(folder) for folder in folders]
        names += [sequence.name for sequence in recordings]
        pairs = view_pairs(recordings, camera, step=VIEW_STEP, every=args.every)
        if recordings and not scores.run(group, [Compared(images, VIEW_STEP) for images in methods], pairs):
            raise SequenceError(
                f"no two views {VIEW_STEP} frames apart, or of a stereo pair, have a pixel in common",
                where=", ".join(sequence.name for sequence in recordings),
                cure="Take recordings that are longer",
            )
    write_results(args, scores, names)
    return 0


def _run_probes(args: argparse.Namespace) -> int:
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.zero_shot import ZERO_SHOT
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
    from scene_completion_training.evaluation.scene_probe import drawn, fit_probe

    _check_probes(args)
    student = open_student(args.units) if args.units else None
    methods = _probed(args, student)
    train = [scene for scenes in _scenes(args, args.train, student) for scene in scenes]
    fitted = []
    for name, features, seeds in methods:
        for seed in seeds:
            found = (drawn(scene, TRAIN_VOXELS, seed) for scene in train)
            scenes = [scene for scene in found if scene is not None]
            fitted.append(fit_probe(name, features, scenes, seed=seed, steps=PROBE_STEPS))
        print(f"{name}: fitted", flush=True)
    scores, names = Scores([ZERO_SHOT]), []
    for of_recording in _scenes(args, [*args.data, *window_folders(args)], student):
        sequence = of_recording[0].sequence
        names.append(sequence.name)
        found = (drawn(scene, TEST_VOXELS) for scene in of_recording)
        group = "towns" if holds_exact_voxels(sequence) else "windows"
        scores.run(group, fitted, [scene for scene in found if scene is not None])
    write_results(args, scores, names)
    return 0


def _scenes(args: argparse.Namespace, folders: Sequence[Path], student: StudentBundle | None) -> list[list[SceneFrame]]:
    """The labelled scenes of each recording: exact voxels in a town, LiDAR elsewhere."""
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
    from scene_completion_training.evaluation.scene_probe import labelled_scenes
    from scene_completion_training.masked_scene.scenes import Kind, SceneMaker

    found = []
    for sequence in map(open_recording, folders):
        kind: Kind = "exact" if holds_exact_voxels(sequence) else "lidar"
        units = student is not None and student.head.label_hidden > 0
        found.append(labelled_scenes(SceneMaker(sequence, kind, student=student, units=units), args.cache, args.every))
    return found


def _probed(args: argparse.Namespace, student: StudentBundle | None) -> list[tuple[str, VoxelFeatures, Sequence[int]]]:
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
        lifted = FoundationFeatures(Backbone(args.foundation, args.layer), PROBE_CELL, camera, "2D, lifted")
        methods.append((lifted.name, lifted, args.seeds))
    if args.untrained:
        size = NetworkFeatures.open(args.untrained, "untrained")
        methods += [("untrained", size.untrained(seed, "untrained"), [seed]) for seed in args.seeds]
    for name, *files in args.method:
        seeds = args.seeds if len(files) == 1 else args.seeds[:1]
        methods += [(name, NetworkFeatures.open(Path(file), name), seeds) for file in files]
    return methods


def _check_probes(args: argparse.Namespace) -> None:
    if not (args.method or args.untrained or args.inputs or args.units or args.foundation):
        raise ConfigurationError(
            "nothing to probe",
            where="evaluate features",
            cure="Give --method, --untrained, --inputs, --units or --foundation",
        )
    if args.cache is None:
        raise ConfigurationError("no place for the scenes", where="--cache", cure="Name a folder")
    check_methods("--method", args.method)
    refuse_scored(args.data, {"--train": args.train})
