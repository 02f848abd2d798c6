"""Compute the feature targets of a training once, so that it only reads them.

MODEL is a local folder with config.json and model.safetensors, or a name on the model hub, of
  DINO, DINOv2, DINOv3   tokens of a layer
  Depth Anything         tokens of a layer of the DINOv2 inside
  CLIP, SigLIP           patches in the space of the model's own sentences
or `espnetv2:FOLDER`: class probabilities of ESPNetv2, as vectors in the space of --text-encoder;
or `diffusion:MODEL`: states of the U-net of a Stable Diffusion, with the package diffusers.

DIR gets manifest.json and one file for every image of the training and validation sequences. The file has the tokens of
the image's variants in half precision. Variant 0 is the image as it is. The others have randomly shifted grids, and
every other one is mirrored. A training that mirrors scenes needs two variants or more.

An interrupted command goes on where it was; several may work on the same DIR at a time.
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.arguments import Output, place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion features``."""
    parser.add_argument("--config", type=Path, required=True, help="configuration of the training, for its data")
    meaning = "local folder, or name on the model hub"
    parser.add_argument("--model", type=place, required=True, metavar="MODEL", help=meaning)
    meaning = "hidden state of DINO and Depth Anything: 1 is what comes out of the first block, -1 of the last "
    meaning += "(default: %(default)s)"
    parser.add_argument("--layer", type=int, default=-1, help=meaning)
    meaning = "text encoder of espnetv2: local folder, or name on the model hub"
    parser.add_argument("--text-encoder", type=place, metavar="MODEL", help=meaning)
    meaning = "sentence that the class names of espnetv2 stand in (default: %(default)s)"
    parser.add_argument("--template", default="a photo of a {} on the street", help=meaning)
    meaning = "YAML: class of espnetv2 -> phrases that say what it is"
    parser.add_argument("--class-texts", type=Path, metavar="FILE", help=meaning)
    meaning = "pixels along a token's side (default: %(default)s)"
    parser.add_argument("--cell", type=int, default=16, metavar="PIXELS", help=meaning)
    parser.add_argument("--variants", type=int, default=2, metavar="N", help="variants an image (default: %(default)s)")
    store = Output(("manifest.json", "features"))
    parser.add_argument("--output", type=store, required=True, metavar="DIR", help="folder for the features")
    parser.add_argument("--device", default="cpu", help="where the model runs, e.g. cuda (default: %(default)s)")
    meaning = "values that replace the configuration's, e.g. data.root=/data"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Prepare the frames, compute what is missing and say how much it was."""
    from scene_completion_training.configuration import Configuration, read_configuration
    from scene_completion_training.data.module import SequencesData
    from scene_completion_training.foundation.feature_store import FeatureManifest, FeatureStore, precompute
    from scene_completion_training.foundation.teachers import open_teacher

    configuration = read_configuration(args.config, args.overrides, Configuration).completed()
    texts = {name: getattr(args, name) for name in ("text_encoder", "template", "class_texts")}
    teacher = open_teacher(args.model, args.layer, args.device, **texts)
    viewpoint = configuration.viewpoint()
    data = SequencesData(configuration.data, configuration.steps, configuration.seed, viewpoint=viewpoint)
    camera = viewpoint.camera
    manifest = FeatureManifest(teacher.identity, args.cell, (camera.height, camera.width), args.variants, seed=0)
    store = FeatureStore.create(args.output, manifest)
    data.setup("fit")
    frames = [frame for sequence in (*data.frames, *data.watched) for frame in sequence]
    computed = precompute(frames, camera, teacher, store)
    images = sum(len(frame.images) for frame in frames)
    print(f"{args.output}: {images} images, {computed} of them new; {store.variants} variants of {store.dim} channels")
    return 0
