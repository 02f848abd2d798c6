"""Give a student classes: clusters of a trained feature field, or the words of a text bank.

DIR gets classes.json, with one entry a cluster: its name, its colour, its share of the surfaces. It also gets
a picture cluster_XX.png of each with what is typical of it, and clusters.safetensors. Names come from labelled training
recordings where there are some (--labelled); otherwise clusters are called by their number. Look at the pictures, edit
names and colours in classes.json (clusters of one name become one class). With --vocabulary the classes are those of a
text bank, and a cluster is a phrase. A point falls to the nearest one in the space of the teacher that the bank's
encoder goes with. Then

    scene-completion export CHECKPOINT BUNDLE --classes DIR --student STUDENT --licence ...
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.arguments import Output
from scene_completion_training.commands.arguments import add_number, add_paths, open_recordings

POINTS = 500  # points of a frame that are clustered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion classes``."""
    meaning = "checkpoint of stage semantics, feature_field or agglomeration"
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=meaning)
    add_paths(parser, "--data", "PATH", "recordings to look at: bags, sequences, or folders of KITTI", required=True)
    meaning = "folder or name of the student that says what is occupied"
    parser.add_argument("--student", type=Path, required=True, metavar="DIR", help=meaning)
    add_number(parser, "--every", 2, "every N-th frame")
    made = Output(("classes.json", "clusters.safetensors", "cluster_*.png"))
    parser.add_argument("--output", type=made, required=True, metavar="DIR", help="folder for the clusters")
    add_paths(parser, "--labelled", "FOLDER", "training recordings with semantic voxels, for the names")
    meaning = "text bank whose classes are taken, instead of clusters"
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help=meaning)
    add_number(parser, "--clusters", 19, "number of clusters", least=2)


def run(args: argparse.Namespace) -> int:
    """Cluster, and write the clusters with their names."""
    import numpy as np

    from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY
    from scene_completion_ros.evaluation.semantics import UNASSIGNED, match_covering
    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training import clustering
    from scene_completion_training.checkpoints import Checkpoint
    from scene_completion_training.evaluation.deployed import open_deployed
    from scene_completion_training.evaluation.geometry import voxel_frames
    from scene_completion_training.evaluation.semantic_evaluation import (
        FeatureFieldModel,
        Sampling,
        named_by,
        survey,
        write_contact_sheets,
    )
    from scene_completion_training.export import asked_teacher

    density = open_deployed(args.student)
    bank = TextBank.load(args.vocabulary) if args.vocabulary else None
    teacher = asked_teacher(Checkpoint.read(args.checkpoint), bank) if bank else ""
    model = FeatureFieldModel.open(args.checkpoint, density=density, teacher=teacher)
    found = survey(model, open_recordings(args.data), every=args.every, points_a_frame=POINTS)
    colours: dict[str, tuple[int, int, int]] = {}
    if bank:
        vocabulary = bank.vocabulary()
        of_class = vocabulary.group >= 0
        clusters = clustering.Clusters(vocabulary.rows[of_class])
        names: list[str | None] = [vocabulary.names[number] for number in vocabulary.group[of_class]]
        colours = dict(zip(vocabulary.names, vocabulary.colours, strict=True))
    else:
        clusters = clustering.fit_clusters(found.codes, args.clusters)
        names = [None] * args.clusters
    if args.labelled and not bank:
        labelled = voxel_frames(open_recordings(args.labelled))
        classes = named_by([model], Sampling(density.cutoff), [clusters], labelled)[0].names(match_covering)[1:]
        names = [None if number in (EMPTY, UNASSIGNED) else COMMON_CLASSES[number] for number in classes]
    count = len(clusters.centres)
    shares = np.bincount(clusters.assign(found.codes), minlength=count) / len(found.codes)
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / clustering.CLASS_FILE
    clustering.write_class_file(file, names, shares.tolist(), colours)
    clustering.write_clusters(args.output / clustering.CLUSTER_FILE, clusters, found.codes, found.units)
    named = clustering.read_class_file(file, count)
    write_contact_sheets(args.output, clusters, found, named)
    print(f"{args.output}: {count} clusters of {len(found.codes)} points, {len(named.class_names)} classes")
    print(f"next: look at cluster_*.png, edit {file}, then scene-completion export ... --classes {args.output}")
    return 0
