"""Compute features: of the images of a training, of clusters that become classes, or of a cloud of points.

`features images CONFIG [KEY=VALUE ...] --model MODEL --output DIR` computes the feature targets of a training once, so
that it only reads them. MODEL is a local folder with config.json and model.safetensors, or a name on the model hub, of
  DINO, DINOv2, DINOv3   tokens of a layer
  Depth Anything         tokens of a layer of the DINOv2 inside
  CLIP                   patches in the space of the model's own sentences
or `espnetv2:FOLDER`: class probabilities of ESPNetv2, as vectors in the space of --text-encoder;
or `diffusion:MODEL`: states of the U-net of a Stable Diffusion, with the package diffusers.
DIR gets manifest.json and one file for every image of the training and validation sequences. The file has the tokens of
the image's variants in half precision. Variant 0 is the image as it is. The others have randomly shifted grids, and
every other one is mirrored. A training that mirrors scenes needs two variants or more. An interrupted command goes on
where it was; several may work on the same DIR at a time.

`features classes RECORDING ... --model CHECKPOINT --student STUDENT --output DIR` gives a student classes: clusters of
a trained feature field (stage semantics, feature_field or agglomeration), or with --vocabulary the classes of a text
bank, where a cluster is a phrase and a point falls to the nearest one. DIR gets classes.json, with one entry a cluster:
its name, its colour, its share of the surfaces, and clusters.safetensors. Export with --classes DIR, and look in the
report of `replay` where each cluster lies; edit names and colours in classes.json (clusters of one name become one
class), and export again.

`features points CLOUD --model NETWORK --output DIR` computes features of a cloud of points with a network of stage
masked_scene: a folder of `scene-completion export`, or a checkpoint. CLOUD is a binary PLY file with x y z in metres
(z up), and red green blue and nx ny nz where it has them; or another scene of points: a scan of ScanNet, a region of
Matterport3D, a room of S3DIS, a recording with depth. DIR gets features.safetensors, with `features`, float16 [N, D],
and `points`, float32 [N, 3], a row for each vertex in their order, and the widths of the levels, finest first, in its
metadata; and components.ply, with the three principal components as colours.
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.arguments import Output, place
from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.commands.arguments import Paths, add_number, open_recordings

EVERY, POINTS = 2, 500  # of recordings that are clustered: every N-th frame, and points of a frame
OPTIONS = {
    "images": ("layer", "text_encoder", "class_texts", "cell", "variants", "upsampled"),
    "classes": ("student", "vocabulary", "clusters"),
    "points": (),
}  # of each kind; None where they are not given
OF_CLASSES, OF_POINTS = ("classes.json", "clusters.safetensors"), ("features.safetensors", "components.ply")
FILES: dict[str, tuple[str, ...]] = {"images": (), "classes": OF_CLASSES, "points": OF_POINTS}
MADE = Output(("manifest.json", "features", *OF_CLASSES, *OF_POINTS), lambda args: FILES[args.kind])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion features``."""
    parser.add_argument("kind", choices=OPTIONS, help="what features are computed of")
    meaning = "configuration of a training and values that replace its own, recordings, or a cloud"
    parser.add_argument("inputs", nargs="+", type=place, action=Paths, metavar="INPUT", help=meaning)
    meaning = "model of images, checkpoint of a feature field, or network of points (`rooms` comes with the package)"
    parser.add_argument("--model", type=place, required=True, metavar="MODEL", help=meaning)
    parser.add_argument("--output", type=MADE, required=True, metavar="DIR", help="folder for what is made")
    images = parser.add_argument_group("features images")
    meaning = "hidden state of DINO and Depth Anything: 1 is the output of the first block, -1 of the last (default)"
    images.add_argument("--layer", type=int, help=meaning)
    meaning = "text encoder of espnetv2: local folder, or name on the model hub"
    images.add_argument("--text-encoder", type=place, metavar="MODEL", help=meaning)
    meaning = "YAML with phrases of the classes of espnetv2 and their template, in the format of vocabulary --file"
    images.add_argument("--class-texts", type=Path, metavar="FILE", help=meaning)
    add_number(images, "--cell", None, "pixels along a token's side (default: 16)")
    add_number(images, "--variants", None, "variants an image (default: 2)")
    meaning = "features along a token's side: as many as features.rays for ablation.no_downsampler (default: 1)"
    add_number(images, "--upsampled", None, meaning)
    classes = parser.add_argument_group("features classes")
    meaning = "folder or name of the student that predicts what is occupied (required)"
    classes.add_argument("--student", type=Path, metavar="DIR", help=meaning)
    meaning = "text bank whose classes are taken, instead of clusters"
    classes.add_argument("--vocabulary", type=Path, metavar="FILE", help=meaning)
    add_number(classes, "--clusters", None, "number of clusters (default: 19)", least=2)


def run(args: argparse.Namespace) -> int:
    """Compute features of a kind, and print what was made."""
    for kind, names in OPTIONS.items():
        for name in names:
            if kind != args.kind and getattr(args, name) is not None:
                what = f"is no option of `features {args.kind}`, but of `features {kind}`"
                raise ConfigurationError(what, where=f"--{name.replace('_', '-')}", cure="Leave it out")
    return {"images": _images, "classes": _classes, "points": _points}[args.kind](args)


def _images(args: argparse.Namespace) -> int:
    from scene_completion_training.configuration import Configuration, read_configuration
    from scene_completion_training.data.module import SequencesData
    from scene_completion_training.foundation.encoded_words import read_phrases
    from scene_completion_training.foundation.feature_store import FeatureManifest, FeatureStore, precompute
    from scene_completion_training.foundation.teachers import open_teacher
    from scene_completion_training.workers import accelerator

    file, *overrides = args.inputs
    configuration = read_configuration(Path(file), overrides, Configuration).completed()
    words = read_phrases(args.class_texts) if args.class_texts else None
    layer, device = -1 if args.layer is None else args.layer, accelerator().type
    teacher = open_teacher(args.model, layer, device, text_encoder=args.text_encoder, words=words)
    viewpoint = configuration.viewpoint()
    data = SequencesData(configuration.data, configuration.steps, configuration.seed, viewpoint=viewpoint)
    camera = viewpoint.camera
    size = (camera.height, camera.width)
    counts = args.cell or 16, size, args.variants or 2
    manifest = FeatureManifest(teacher.identity, *counts, seed=0, upsampled=args.upsampled or 1)
    store = FeatureStore.create(args.output, manifest)
    data.setup("fit")
    frames = [frame for sequence in (*data.frames, *data.watched) for frame in sequence]
    computed = precompute(frames, camera, teacher, store)
    images = sum(len(frame.images) for frame in frames)
    print(f"{args.output}: {images} images, {computed} of them new; {store.variants} variants of {store.dim} channels")
    return 0


def _classes(args: argparse.Namespace) -> int:
    import numpy as np

    from scene_completion_ros.inference.text_bank import TextBank
    from scene_completion_training import clustering
    from scene_completion_training.checkpoints import Checkpoint
    from scene_completion_training.evaluation.deployed import open_deployed
    from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel, survey
    from scene_completion_training.export import asked_teacher

    if args.student is None:
        raise ConfigurationError("`features classes` needs a student", where="--student", cure="Name its folder")
    density, checkpoint = open_deployed(args.student), Path(args.model)
    bank = TextBank.load(args.vocabulary) if args.vocabulary else None
    teacher = asked_teacher(Checkpoint.read(checkpoint), bank) if bank else ""
    model = FeatureFieldModel.open(checkpoint, density=density, teacher=teacher)
    codes, units = survey(model, open_recordings(map(Path, args.inputs)), every=EVERY, points_a_frame=POINTS)
    colours: dict[str, tuple[int, int, int]] = {}
    if bank:
        vocabulary = bank.vocabulary()
        of_class = vocabulary.group >= 0
        clusters = clustering.Clusters(vocabulary.rows[of_class])
        names: list[str | None] = [vocabulary.names[number] for number in vocabulary.group[of_class]]
        colours = dict(zip(vocabulary.names, vocabulary.colours, strict=True))
    else:
        clusters = clustering.fit_clusters(codes, args.clusters or 19)
        names = [None] * len(clusters.centres)
    count = len(clusters.centres)
    shares = np.bincount(clusters.assign(codes), minlength=count) / len(codes)
    with MADE.writing(args.output, args) as folder:
        clustering.write_class_file(folder / clustering.CLASS_FILE, names, shares.tolist(), colours)
        clustering.write_clusters(folder / clustering.CLUSTER_FILE, clusters, codes, units)
    print(f"{args.output}: {count} clusters of {len(codes)} points")
    file = args.output / clustering.CLASS_FILE
    print(f"next: scene-completion export ... --classes {args.output}; names and colours are in {file}")
    return 0


def _points(args: argparse.Namespace) -> int:
    import json

    import numpy as np

    from scene_completion_ros.whole_files import tensor_bytes
    from scene_completion_training.points import features
    from scene_completion_training.points.opening import open_scenes
    from scene_completion_training.points.ply import write_ply

    network = features.PointNetwork.open(args.model)
    scenes = [one for place in args.inputs for one in open_scenes(place).readers.items()]
    if len(scenes) > 1:
        what = f"{len(scenes)} scenes, such as {', '.join(name for name, _ in scenes[:3])}"
        raise SequenceError(what, where=", ".join(args.inputs), cure="Name one of them")
    scene = scenes[0][1]()
    found = np.concatenate(network.of_scene(scene), axis=1)
    widths = json.dumps(network.network.dims)
    metadata = {"levels": widths, "network": network.name, "voxel_size": f"{network.voxel_size:g}"}
    colours = features.principal_colours(found)
    kinds = [*((axis, "f4") for axis in "xyz"), *((colour, "u1") for colour in ("red", "green", "blue"))]
    vertex = np.rec.fromarrays([*scene.points.T, *colours.T], dtype=kinds)
    with MADE.writing(args.output, args) as folder:
        content = tensor_bytes({"features": found, "points": scene.points}, metadata)
        (folder / "features.safetensors").write_bytes(content)
        write_ply(folder / "components.ply", {"vertex": vertex})
    print(f"{args.output}: features of {len(scene)} points, levels of {widths} channels")
    return 0
