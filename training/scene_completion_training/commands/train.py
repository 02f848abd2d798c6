"""Train a student network from posed video.

    scene-completion train --config FILE KEY=VALUE ...
    scene-completion train --pack PACK KEY=VALUE ...
    scene-completion train --from STUDENT --data RECORDING ... --output FOLDER

The second form takes all that it needs from what `scene-completion pack` wrote. The third goes on from a student that
completes cells. It keeps a part of the recordings, to say whether that helped.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from scene_completion_ros.commands.arguments import Output
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training import CONFIGS
from scene_completion_training.commands.arguments import add_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `scene-completion train`."""
    meaning = "YAML configuration (default: that of the pack, or else single_view.yaml of training/configs)"
    parser.add_argument("--config", type=Path, help=meaning)
    parser.add_argument("--pack", type=Path, metavar="PACK", help="train on what `scene-completion pack` wrote")
    meaning = "go on from this student, a bundle or a name as of the package, by the configuration of its world"
    parser.add_argument("--from", dest="student", type=Path, metavar="STUDENT", help=meaning)
    meaning = "with --from: recordings, of a stereo pair or a camera with poses, or what `extract` wrote"
    add_paths(parser, "--data", "RECORDING", meaning)
    meaning = "with --from: folder for checkpoints and curves; prepared frames go into FOLDER_samples"
    kept = Output(("checkpoints/best.ckpt",), lambda _: ())
    parser.add_argument("--output", type=kept, metavar="FOLDER", help=meaning)
    meaning = "train this part alone of a configuration that has several: pixels or student of "
    meaning += "training/configs/street.yaml"
    parser.add_argument("--only", metavar="PART", default="", help=meaning)
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: all cores)")
    meaning = "values that replace the configuration's, e.g. data.root=/data steps=2000 losses.occupancy=0"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=meaning)


def run(arguments: argparse.Namespace) -> int:
    """Trains, resuming from the last checkpoint in the output folder if there is one."""
    from scene_completion_ros.progress import print_summary
    from scene_completion_training.configuration import TrainingConfiguration, read_configuration
    from scene_completion_training.data.pack import CONFIGURATION, Pack, made_of
    from scene_completion_training.runner import train_parts
    from scene_completion_training.stage_registry import stage_class

    if len({bool(arguments.student), bool(arguments.data), bool(arguments.output)}) > 1:
        what, cure = "belong together", "Name a student, recordings and a folder; or none, and a configuration"
        raise ConfigurationError(what, where="--from, --data, --output", cure=cure)
    if arguments.pack and arguments.student:
        raise ConfigurationError("exclude each other", where="--pack, --from", cure="Leave out one of them")
    own = None
    if arguments.student:
        from scene_completion_training.own_drives import compared, configuration_from, in_words

        own = configuration_from(arguments.student, arguments.data, arguments.output, arguments.overrides)
    pack = Pack(arguments.pack) if arguments.pack else None
    if pack is not None:
        pack.content(CONFIGURATION)  # refuses a damaged one
    file = arguments.config or (pack.folder / CONFIGURATION if pack else CONFIGS / "single_view.yaml")
    configuration: Any = own or read_configuration(file, arguments.overrides, TrainingConfiguration)
    if pack is not None:
        pack.refuse_other(made_of(configuration))
        configuration.data = dataclasses.replace(configuration.data, pack=str(pack.folder))
    checkpoint = train_parts(configuration, arguments.only, threads=arguments.threads)
    stage = configuration.parts()[arguments.only].stage if arguments.only else configuration.stage
    following = stage_class(stage).next_command.format(checkpoint=checkpoint)
    rows: dict[str, object] = {"checkpoint": checkpoint, "next": following}
    if own and not arguments.only:
        for part, losses in compared(own, checkpoint).items():
            rows[part] = in_words(losses, arguments.student.name)
    print_summary(rows)
    return 0
