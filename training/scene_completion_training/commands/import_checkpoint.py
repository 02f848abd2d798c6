r"""Read a public checkpoint of Behind the Scenes, KDBTS or SceneDINO as one of ours.

    scene-completion import-checkpoint training_checkpoint_250000.pt runs/kdbts/checkpoints/last.ckpt \
        --config training/configs/full_size/kdbts_kitti_360.yaml

The configuration names the network and its camera. The file is read without executing any of
it.
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.arguments import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `scene-completion import-checkpoint`."""
    parser.add_argument("file", type=Path, help="public checkpoint (.pt)")
    parser.add_argument("output", type=Output(), help="checkpoint to write (.ckpt)")
    meaning = "configuration of the experiment, see training/configs/full_size"
    parser.add_argument("--config", type=Path, required=True, help=meaning)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values that replace those of the file")


def run(args: argparse.Namespace) -> int:
    """Reads, renames and writes."""
    from scene_completion_training.configuration import Configuration, read_configuration
    from scene_completion_training.published_weights import import_checkpoint

    others = import_checkpoint(args.file, args.output, read_configuration(args.config, args.overrides, Configuration))
    if others:
        print(f"{args.file}: {len(others)} weights belong to other networks, such as {others[0]}")
    print(f"{args.output}: next: scene-completion evaluate geometry --checkpoint {args.output} ...")
    return 0
