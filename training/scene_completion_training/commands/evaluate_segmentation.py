"""`evaluate segmentation`: classes of pixels by features of fields, rendered into the image (2D protocol of SceneDINO).

Clusters are found among pixels of --cluster-on and named by the labels of --name-on, one to one. Linear probes are
trained on the labels of --probe-on, and written to --output. Folders are data_2d_raw/DRIVE of KITTI-360,
leftImg8bit/SPLIT of Cityscapes and images/10k/SPLIT of BDD100K; each data set that is scored has rows of its own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands import arguments

if TYPE_CHECKING:
    from scene_completion_ros.sequences.frame_lists import SplitCount
    from scene_completion_training.data.label_images import LabelledImage, LabelledImages

FITTED = {
    "cluster": "training images whose pixels are clustered",
    "name": "validation images whose labels name the clusters",
    "probe": "training images on whose labels linear probes are trained",
}


IMAGES = 500  # that are clustered, and that name the clusters, at most, drawn at random
# Of four images, that train the probes. Published are 1000, of which every other image is of a side camera, without
# labels.
PROBE_STEPS = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion evaluate segmentation``."""
    arguments.add_paths(
        parser, "--checkpoint", "FILE", "checkpoints of stage semantics or feature_field", required=True
    )
    arguments.add_paths(parser, "--data", "FOLDER", "labelled images to score on", required=True)
    arguments.add_frames(parser)
    for name, meaning in FITTED.items():
        arguments.add_paths(parser, f"--{name}-on", "FOLDER", meaning)
        parser.add_argument(f"--{name}-frames", type=Path, metavar="LIST", help=f"frame list of --{name}-on")
    arguments.add_number(parser, "--every", 1, "score every N-th image")
    parser.add_argument("--seed", type=int, default=0, help="of whatever is drawn (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Fit, score, print and write."""
    from scene_completion_ros.evaluation.metric import Scores
    from scene_completion_training.evaluation import segmentation
    from scene_completion_training.evaluation.segmentation import SEGMENTATION

    _check(args)
    scored, counted = _images(args, "data", "frames")
    found_of = {name: _images(args, f"{name}_on", f"{name}_frames") for name in FITTED}
    fitted = {name: found for name, (found, _) in found_of.items()}
    _refuse_scored_images(scored, fitted)
    methods: list[segmentation.PixelLabels] = []
    for file in args.checkpoint:
        field = segmentation.RenderedField(file)
        if fitted["cluster"]:
            clusters = segmentation.cluster_pixels(field, _drawn(args, fitted["cluster"]), seed=args.seed)
            methods.append(segmentation.named_by_images(clusters, _drawn(args, fitted["name"])))
        if fitted["probe"]:
            images = [image for found in fitted["probe"] for image in found.images]
            probes = segmentation.fit_pixel_probes(field, images, steps=PROBE_STEPS, seed=args.seed)
            for space, probe in probes.items():
                probe.save(args.output / f"probe_{field.name}_{space}.safetensors")
                methods.append(segmentation.PixelLabels(f"{field.name}, probe of {space}", field, space, probe.labels))
    scores = Scores([SEGMENTATION])
    for found in scored:
        scores.run(found.dataset, methods, found.images[:: args.every])
    if not scores.rows(SEGMENTATION.name):
        raise ConfigurationError("no pixel has a class", where="--data", cure="Name a split whose labels are published")
    arguments.write_results(args, scores, [found.name for found in scored], counted=counted, named=found_of["name"][1])
    return 0


def _images(args: argparse.Namespace, folders: str, frames: str) -> "tuple[list[LabelledImages], SplitCount | None]":
    """The labelled images of the folders of an argument, and how much was found of their list."""
    from scene_completion_training.data.label_images import labelled_images

    split = arguments.read_frames(getattr(args, frames))
    found = [labelled_images(folder, split) for folder in getattr(args, folders)]
    return [one for one in found if one.images], arguments.count_frames(args, split)


def _drawn(args: argparse.Namespace, found: "Sequence[LabelledImages]") -> "list[LabelledImage]":
    import numpy as np

    images = [image for one in found for image in one.images]
    return [images[k] for k in np.random.default_rng(args.seed).permutation(len(images))[:IMAGES]]


def _refuse_scored_images(scored: "Sequence[LabelledImages]", fitted: "dict[str, list[LabelledImages]]") -> None:
    files = {image.label_file for one in scored for image in one.images}
    for name, found in fitted.items():
        if shared := sorted(files.intersection(image.label_file for one in found for image in one.images)):
            what = f"{len(shared)} of its images are scored as well, such as {shared[0]}"
            cure = "Name other images: what is scored may not name clusters or train probes"
            raise ConfigurationError(what, where=f"--{name}-on, --{name}-frames", cure=cure)


def _check(args: argparse.Namespace) -> None:
    if not (args.cluster_on or args.probe_on):
        cure = "Give --cluster-on and --name-on for clusters, --probe-on for linear probes"
        raise ConfigurationError("nothing distinguishes pixels", where="evaluate segmentation", cure=cure)
    if bool(args.cluster_on) != bool(args.name_on):
        cure = "Give both: clusters are found among training images, and named by validation images"
        raise ConfigurationError("one without the other", where="--cluster-on, --name-on", cure=cure)
    for name in FITTED:
        if getattr(args, f"{name}_frames") and not getattr(args, f"{name}_on"):
            raise ConfigurationError("a list of no folder", where=f"--{name}-frames", cure=f"Give --{name}-on")
    arguments.check_names(args)
