"""Give a student classes: clusters of a trained feature field, the words of a text bank, or a few voxels named by hand.

Clusters. DIR gets classes.json, with one entry a cluster: its name, its colour, its share of the surfaces. It also gets
a picture cluster_XX.png of each with what is typical of it, and clusters.safetensors. Names come from labelled training
recordings where there are some (--labelled); otherwise clusters are called by their number. Look at the pictures, edit
names and colours in classes.json (clusters of one name become one class). With --vocabulary the classes are those of a
text bank, and a cluster is a phrase. A point falls to the nearest one in the space of the teacher that the bank's
encoder goes with. Then

    scene-completion export CHECKPOINT BUNDLE --classes DIR --student STUDENT --licence ...

Named voxels. --page shows what the student completes; choose a class or type a new one, click voxels, save the file.
Then give the file back with --names. DIR is the student with these classes in place of its own; the node publishes them
like any other. With --page, the page shows what it calls the voxels now, and takes further names:

    scene-completion classes --data drive_bag --page PAGE
    scene-completion classes --data drive_bag --names named_voxels.json --output DIR --page PAGE

Ten voxels a class are a good beginning. What tells classes apart are the student's label units, or those of a
checkpoint of stage masked_scene. A file by hand is as good as one of the page:

    {"schema": 1, "classes": {"kerb": {"colour": [200, 60, 60]}, "road": {}},
     "voxels": [{"recording": "drive", "frame": 12, "index": [40, 120, 9], "class": "kerb"}, ...]}
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene_completion_ros.commands.paths import BUNDLE, REPORT, Output
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands.arguments import add_paths, say_dropped

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_ros.sequences.posed_sequence import PosedSequence
    from scene_completion_training.clustering.named_voxels import NamedVoxels
    from scene_completion_training.clustering.voxel_naming import FeaturesOfRows

POINTS = 500
"""Points of a frame that are clustered."""
CLUSTERED_EVERY, NAMED_EVERY = 2, 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion classes``."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help="checkpoint of stage semantics, feature_field or agglomeration; with --names a network of stage "
        "masked_scene that tells voxels apart, or none",
    )
    add_paths(parser, "--data", "PATH", "recordings to look at: bags, sequences, or folders of KITTI", required=True)
    parser.add_argument(
        "--student",
        type=Path,
        metavar="DIR",
        help="folder, name or hf:owner/name@revision of the student that says what is occupied (for named voxels "
        "kitti_student by default)",
    )
    parser.add_argument("--every", type=int, metavar="N", help="every N-th frame (default: 2, for named voxels 5)")
    made = Output(("classes.json", "clusters.safetensors", "cluster_*.png", *(BUNDLE.names or ())))
    parser.add_argument("--output", type=made, metavar="DIR", help="folder for clusters, or for the named student")
    clusters = parser.add_argument_group("clusters")
    add_paths(clusters, "--labelled", "FOLDER", "training recordings with semantic voxels, for the names")
    clusters.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="text bank whose classes are taken, instead of clusters"
    )
    clusters.add_argument("--clusters", type=int, default=19, help="number of clusters (default: %(default)s)")
    named = parser.add_argument_group("named voxels")
    named.add_argument("--names", type=Path, metavar="FILE", help="named voxels; --output takes the student")
    named.add_argument("--page", type=REPORT, metavar="PAGE", help="folder for the page on which voxels are named")


def run(args: argparse.Namespace) -> int:
    """Cluster and write; or show voxels, and write the student whose classes were named."""
    by_hand = args.names is not None or args.page is not None
    _check(args, by_hand)
    if args.every is None:
        args.every = NAMED_EVERY if by_hand else CLUSTERED_EVERY
    if args.every < 1:
        raise ConfigurationError(f"{args.every} is no step", where="--every", cure="Take every frame, 1, or fewer")
    return _run_named(args) if by_hand else _run_clusters(args)


def _check(args: argparse.Namespace, by_hand: bool) -> None:
    if not by_hand and not (args.checkpoint and args.student and args.output):
        raise ConfigurationError(
            "nothing to do",
            where="classes",
            cure="Give a checkpoint, --student and --output for clusters, or --page to name voxels by hand",
        )
    if by_hand and ((args.names is None) != (args.output is None) or (args.checkpoint and args.names is None)):
        raise ConfigurationError(
            "--names, and no place for the student, or the other way round",
            where="--names, --output, CHECKPOINT",
            cure="Give --names and --output together, a checkpoint only with them",
        )
    if by_hand and (args.labelled or args.vocabulary):
        raise ConfigurationError(
            "names clusters", where="--labelled, --vocabulary", cure="Leave out --names and --page"
        )


def _run_clusters(args: argparse.Namespace) -> int:
    import numpy as np

    from scene_completion_ros.evaluation.class_confusion import UNASSIGNED
    from scene_completion_ros.evaluation.cluster_assignment import match_covering
    from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_ros.sequences.opening import open_recording
    from scene_completion_training.checkpoints import Checkpoint
    from scene_completion_training.clustering.clusters import (
        CLASS_FILE,
        CLUSTER_FILE,
        Clusters,
        fit_clusters,
        read_class_file,
        write_class_file,
        write_clusters,
    )
    from scene_completion_training.evaluation.geometry import voxel_frames
    from scene_completion_training.evaluation.semantic_evaluation import named_by
    from scene_completion_training.evaluation.semantic_models import FeatureFieldModel, student_density
    from scene_completion_training.evaluation.survey import survey, write_contact_sheets
    from scene_completion_training.evaluation.voxel_sampling import Sampling
    from scene_completion_training.export import asked_teacher

    density, cutoff = student_density(args.student)
    bank = TextBank.load(args.vocabulary) if args.vocabulary else None
    teacher = asked_teacher(Checkpoint.read(args.checkpoint), bank) if bank else ""
    model = FeatureFieldModel.open(args.checkpoint, density=density, teacher=teacher)
    recordings = [open_recording(folder) for folder in args.data]
    found = survey(model, recordings, every=args.every, points_a_frame=POINTS)
    colours: dict[str, tuple[int, int, int]] = {}
    if bank:
        vocabulary = bank.vocabulary()
        of_class = vocabulary.group >= 0
        clusters = Clusters(vocabulary.rows[of_class])
        names: list[str | None] = [vocabulary.names[number] for number in vocabulary.group[of_class]]
        colours = dict(zip(vocabulary.names, vocabulary.colours, strict=True))
    else:
        clusters = fit_clusters(found.codes, args.clusters)
        names = [None] * args.clusters
    if args.labelled and not bank:
        labelled = [open_recording(folder) for folder in args.labelled]
        classes = named_by([model], Sampling(cutoff), [clusters], voxel_frames(labelled))[0].names(match_covering)[1:]
        names = [None if number in (EMPTY, UNASSIGNED) else COMMON_CLASSES[number] for number in classes]
    count = len(clusters.centres)
    shares = np.bincount(clusters.assign(found.codes), minlength=count) / len(found.codes)
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / CLASS_FILE
    write_class_file(file, names, shares.tolist(), colours)
    write_clusters(args.output / CLUSTER_FILE, clusters, found.codes, found.units)
    named = read_class_file(file, count)
    write_contact_sheets(args.output, clusters, found, named)
    print(f"{args.output}: {count} clusters of {len(found.codes)} points, {len(named.class_names)} classes")
    print(f"next: look at cluster_*.png, edit {file}, then scene-completion export ... --classes {args.output}")
    return 0


def _run_named(args: argparse.Namespace) -> int:
    from scene_completion_ros.inference.shipped import open_student
    from scene_completion_training.clustering.named_voxels import NamedVoxels
    from scene_completion_training.clustering.voxel_naming import check_student

    named = NamedVoxels.read(args.names) if args.names else None
    bundle = open_student(args.student)
    check_student(bundle, args.output)
    recordings = _opened(args.data)
    if named is not None:
        named.check_recordings({name: len(sequence) for name, sequence in recordings.items()})
        bundle = _named_student(args, bundle, named, recordings)
    if args.page:
        _write_page(args, bundle, named, recordings)
    return 0


def _opened(paths: list[Path]) -> dict[str, PosedSequence]:
    """Recordings by name, without anything but images: what is named is what the student says of them."""
    import dataclasses

    from scene_completion_ros.sequences.opening import open_recording

    found: dict[str, PosedSequence] = {}
    for path in paths:
        sequence = open_recording(path)
        if sequence.name in found:
            raise ConfigurationError(
                f"two recordings are called {sequence.name}", where="--data", cure="Name them in two runs"
            )
        frames = [dataclasses.replace(frame, assets={}) for frame in sequence.frames]
        found[sequence.name] = dataclasses.replace(sequence, frames=frames)
    return found


def _named_student(
    args: argparse.Namespace, bundle: StudentBundle, named: NamedVoxels, recordings: dict[str, PosedSequence]
) -> StudentBundle:
    from scene_completion_training.clustering.voxel_naming import VoxelNamer, write_named
    from scene_completion_training.masked_scene.scenes import SceneMaker

    namer = VoxelNamer(named, _features(args, bundle))
    for name, sequence in recordings.items():
        maker = SceneMaker(sequence, "predicted", student=bundle, units=True)
        for frame in sorted(named.frames(name).union(range(0, len(sequence), args.every))):
            namer.look(name, frame, maker.scene(frame))
    found = namer.head()
    features = f"network of {args.checkpoint.name}" if args.checkpoint else "label units"
    written = write_named(bundle, found, named, args.output, features=features)
    say_dropped(bundle, written)
    print(
        f"{args.output}: {found.voxels} named voxels of {len(named.class_names)} classes; "
        f"{100.0 * found.found_again:.0f} % of them are found again where a fifth is left out"
    )
    if args.checkpoint:
        print(f"the student's labels agree with the network's on {100.0 * found.agreement:.0f} % of the voxels")
    return written


def _features(args: argparse.Namespace, bundle: StudentBundle) -> FeaturesOfRows | None:
    """What a network says of voxels, all levels side by side; None for the student's units."""
    if args.checkpoint is None:
        return None
    import numpy as np

    from scene_completion_training.evaluation.voxel_features import NetworkFeatures

    network = NetworkFeatures.open(args.checkpoint, args.checkpoint.name, bundle.grid.voxel_size)
    return lambda scene, rows: np.concatenate(network.features_of(scene, rows), axis=1)


def _write_page(
    args: argparse.Namespace, bundle: StudentBundle, named: NamedVoxels | None, recordings: dict[str, PosedSequence]
) -> None:
    import dataclasses

    import numpy as np

    from scene_completion_ros.inference.completer import Completer
    from scene_completion_ros.report.writer import ReportWriter
    from scene_completion_ros.sequences.rigs import reference_camera

    classes = zip(bundle.class_names, bundle.class_colours, strict=True)
    content: dict[str, Any] = {"classes": {name: {"colour": list(colour)} for name, colour in classes}, "voxels": []}
    if named is not None:
        content = named.content()
    title = f"{', '.join(recordings)}: voxels of {bundle.name}"
    with ReportWriter(args.page, title, bundle.class_names, bundle.class_colours, naming=content) as report:
        for name, sequence in recordings.items():
            camera = reference_camera(sequence)
            completer = Completer(bundle, sequence.cameras[camera])
            requested = named.frames(name) if named else set()
            for frame in sorted(requested.union(range(0, len(sequence), args.every))):
                image = sequence.image(frame, camera)
                completion = completer.complete(image, sequence.frames[frame].stamp_ns)
                voxels = completion.voxels
                # Those that the fit looks at as well.
                shown = np.asarray(sequence.cameras[camera].project(voxels.points_camera())[1])
                parts = ("index", "probability", "label", "confidence")
                kept = {part: getattr(voxels, part)[shown] for part in parts}
                report.add_frame(
                    dataclasses.replace(voxels, **kept),
                    image,
                    completion.shown_depth,
                    camera=sequence.cameras[camera],
                    timings_ms=completion.timings_ms,
                    source=(name, frame),
                )
    print(f"{report.index}: open it, choose a class and click voxels; then give the saved file with --names")
