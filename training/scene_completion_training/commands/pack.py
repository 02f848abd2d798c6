"""Pack what a training needs into a small folder, for another machine.

    scene-completion pack --config training/configs/street.yaml --size 60M PACK KEY=VALUE ...

There `scene-completion train --pack PACK` needs neither recordings nor teachers nor the model hub.
"""

import argparse
from pathlib import Path

from scene_completion_ros.commands.arguments import Output
from scene_completion_ros.errors import ConfigurationError

PACK = Output(
    ("manifest.json", "configuration.yaml", "trunk", "training", "validation"),
    at_once=True,
    inside=("trunk/*", "training/[0-9]*/[0-9]*", "validation/[0-9]*/[0-9]*"),
)
_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}


def _size(text: str) -> int:
    try:
        return int(float(text[:-1]) * _UNITS[text[-1:].upper()])
    except (KeyError, ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text} is no size. Give one such as 60M or 1.5G") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `scene-completion pack`."""
    meaning = "YAML configuration of stage completion or pixels"
    parser.add_argument("--config", type=Path, required=True, help=meaning)
    meaning = "largest size of all files, as 60M or 1.5G; fewer frames are taken where all do not fit (default: any)"
    parser.add_argument("--size", type=_size, help=meaning)
    parser.add_argument("output", type=PACK, metavar="PACK", help="folder that is made")
    meaning = "values that replace the configuration's, as of train"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=meaning)


def run(arguments: argparse.Namespace) -> int:
    """Prepares what `data.cache` lacks of truth and of what teachers know, and packs it."""
    from scene_completion_ros.progress import print_summary
    from scene_completion_training.configuration import TrainingConfiguration, read_configuration
    from scene_completion_training.packing import write_pack

    if PACK.former(arguments.output, arguments) and not (arguments.output / "manifest.json").is_file():
        raise ConfigurationError("is no pack", where=f"PACK {arguments.output}", cure="Name another folder")
    configuration = read_configuration(arguments.config, arguments.overrides, TrainingConfiguration)
    with PACK.writing(arguments.output, arguments) as folder:
        rows = write_pack(configuration, folder, arguments.size)
    print_summary({"pack": arguments.output, **rows, "next": f"scene-completion train --pack {arguments.output}"})
    return 0
