"""`evaluate features`: what classes a linear probe finds in features of voxels.

Probes are fitted to the labelled voxels of --train and scored on those of --data and --windows: of networks of stage
`masked_scene`, the same without any training, what goes into them, and a student's label units.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.paths import RESULTS, Output
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands import arguments

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_training.evaluation.voxel_features import SceneFrame, VoxelFeatures

PROBE_STEPS = 1000
TRAIN_VOXELS, TEST_VOXELS = 2000, 5000  # voxels of a scene, at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate features``."""
    arguments.add_paths(parser, "--train", "FOLDER", "towns and KITTI windows that probes are fitted to", required=True)
    arguments.add_paths(parser, "--data", "FOLDER", "towns and KITTI windows that they are scored on")
    arguments.add_windows(parser)
    meaning = "checkpoints of stage masked_scene under one name, one for each seed; may come several times"
    arguments.add_methods(parser, "--method", meaning)
    meaning = "also its network with random weights, for each of --seeds"
    parser.add_argument("--untrained", type=Path, metavar="CHECKPOINT", help=meaning)
    parser.add_argument("--inputs", action="store_true", help="also what goes into the networks")
    parser.add_argument("--units", type=Path, metavar="BUNDLE", help="also the label units of this student")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of the probes (default: 0)")
    parser.add_argument("--every", type=int, default=5, metavar="N", help="every N-th frame (default: %(default)s)")
    parser.add_argument("--cache", type=Output(()), required=True, metavar="DIR", help="where scenes are kept")
    parser.add_argument("--output", type=RESULTS, required=True, metavar="DIR", help="takes results.json and .md")


def run(args: argparse.Namespace) -> int:
    """Fit, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_ros.evaluation.zero_shot import ZERO_SHOT
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
    from scene_completion_training.evaluation.probes import drawn, fit_probe

    _check(args)
    student = open_student(args.units) if args.units else None
    methods = _probed(args)
    train = [scene for scenes in _scenes(args, args.train, student) for scene in scenes]
    fitted = []
    for name, features, seeds in methods:
        for seed in seeds:
            found = (drawn(scene, TRAIN_VOXELS, seed) for scene in train)
            scenes = [scene for scene in found if scene is not None]
            fitted.append(fit_probe(name, features, scenes, seed=seed, steps=PROBE_STEPS))
        print(f"{name}: fitted", flush=True)
    scores, names = Scores([ZERO_SHOT]), []
    for of_recording in _scenes(args, [*args.data, *arguments.window_folders(args)], student):
        sequence = of_recording[0].sequence
        names.append(sequence.name)
        found = (drawn(scene, TEST_VOXELS) for scene in of_recording)
        group = "towns" if holds_exact_voxels(sequence) else "windows"
        scores.run(group, fitted, [scene for scene in found if scene is not None])
    arguments.write_results(args, scores, names)
    return 0


def _scenes(
    args: argparse.Namespace, folders: Sequence[Path], student: "StudentBundle | None"
) -> "list[list[SceneFrame]]":
    """The labelled scenes of each recording: exact voxels in a town, LiDAR elsewhere."""
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
    from scene_completion_training.evaluation.probes import labelled_scenes
    from scene_completion_training.masked_scene.scenes import Kind, SceneMaker

    found = []
    for sequence in map(open_recording, folders):
        kind: Kind = "exact" if holds_exact_voxels(sequence) else "lidar"
        units = student is not None and student.head.label_hidden > 0
        found.append(labelled_scenes(SceneMaker(sequence, kind, student=student, units=units), args.cache, args.every))
    return found


def _probed(args: argparse.Namespace) -> "list[tuple[str, VoxelFeatures, Sequence[int]]]":
    """Name for tables, features, and the seeds of their probes."""
    from scene_completion_training.evaluation.voxel_features import NetworkFeatures, SceneColumns

    methods: list[tuple[str, VoxelFeatures, Sequence[int]]] = []
    if args.inputs:
        methods.append(("inputs", SceneColumns("inputs"), args.seeds))
    if args.units:
        methods.append(("label units", SceneColumns("label units", units=True), args.seeds))
    if args.untrained:
        size = NetworkFeatures.open(args.untrained, "untrained")
        methods += [("untrained", size.untrained(seed, "untrained"), [seed]) for seed in args.seeds]
    for name, *files in args.method:
        seeds = args.seeds if len(files) == 1 else args.seeds[:1]
        methods += [(name, NetworkFeatures.open(Path(file), name), seeds) for file in files]
    return methods


def _check(args: argparse.Namespace) -> None:
    arguments.check_recordings(args, "features")
    if args.every < 1:
        raise ConfigurationError(f"every {args.every} frames", where="--every", cure="Give a positive number")
    if not (args.method or args.untrained or args.inputs or args.units):
        cure = "Give --method, --untrained, --inputs or --units"
        raise ConfigurationError("nothing to probe", where="evaluate features", cure=cure)
    arguments.check_methods("--method", args.method)
    arguments.refuse_scored(args.data, {"--train": args.train})
