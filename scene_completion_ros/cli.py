"""The command ``scene-completion`` and its subcommands."""

import argparse
import errno
import io
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

import scene_completion_ros
from scene_completion_ros.commands.arguments import add_overwrite, check_arguments, outputs
from scene_completion_ros.errors import CURES, SceneCompletionError, of_system
from scene_completion_ros.progress import Progress, forwarded_log

_OWN = ("scene_completion_ros", "scene_completion_training", "scene_completion_worlds")


def explained(error: BaseException, *, written: str, extra: str) -> SceneCompletionError | None:
    """The sentence for an error, None for a defect; `written`: an output; `extra`: where its packages come from."""
    if isinstance(error, SceneCompletionError):
        return error
    module = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if isinstance(error, ModuleNotFoundError) and module not in _OWN:
        from scene_completion_ros.commands.requirements import how_to_install

        return SceneCompletionError(f"the package {module} is missing", cure=how_to_install(module, extra))
    if isinstance(error, ImportError) and module not in _OWN:
        return SceneCompletionError(str(error), cure="Check the packages with scene-completion doctor")
    if isinstance(error, OSError):
        return of_system(error, written)
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # of Path.resolve() before Python 3.13
        return SceneCompletionError(str(error), cure=CURES[errno.ELOOP])
    if isinstance(error, MemoryError):
        what = f"not enough memory ({error})" if str(error) else "not enough memory"
        return SceneCompletionError(what, cure="End other programs, or compute less at a time: a smaller grid or image")
    if isinstance(error, RecursionError):
        return SceneCompletionError("a file that it read is nested too deeply", cure="Check what it was given")
    return None


BAD_INPUT, INTERRUPTED = 2, 130

# The commands and their modules.
COMMANDS = {
    "complete": "scene_completion_ros.commands.complete",
    "doctor": "scene_completion_ros.commands.doctor",
    "replay": "scene_completion_ros.commands.replay",
    "vocabulary": "scene_completion_ros.commands.vocabulary",
    "calibrate": "scene_completion_training.commands.calibrate",
    "evaluate": "scene_completion_training.commands.evaluate",
    "export": "scene_completion_training.commands.export",
    "extract": "scene_completion_training.commands.extract",
    "features": "scene_completion_training.commands.features",
    "pack": "scene_completion_training.commands.pack",
    "world": "scene_completion_worlds.commands.world",
    "train": "scene_completion_training.commands.train",
}


# Under which heading the help lists them; the others are tools.
HEADINGS = {
    "Run": ("complete", "replay", "doctor"),
    "Train": ("extract", "pack", "train", "calibrate", "export", "evaluate", "features"),
}
TOOLS = "Tools"


class Command(Protocol):
    """A module of `COMMANDS`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work; the result is the exit code."""


def find_commands() -> dict[str, Command]:
    """Commands by name, sorted."""
    return {name: cast(Command, import_module(module)) for name, module in sorted(COMMANDS.items())}


def build_parser(commands: dict[str, Command]) -> argparse.ArgumentParser:
    """Parser of the command line with one subparser a command."""
    parser = argparse.ArgumentParser(
        prog="scene-completion",
        description="Completed semantic occupancy from camera images.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_listed(commands),
    )
    parser.add_argument("--version", action="version", version=scene_completion_ros.__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands.items():
        text = (command.__doc__ or name).strip()
        subparser = subparsers.add_parser(name, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add_arguments(subparser)
    add_overwrite(parser)
    return parser


def _listed(commands: dict[str, Command]) -> str:
    """The summary line of each command, under headings."""
    grouped = {heading: [name for name in names if name in commands] for heading, names in HEADINGS.items()}
    grouped[TOOLS] = [name for name in commands if not any(name in names for names in HEADINGS.values())]
    width, lines = shutil.get_terminal_size().columns, []
    for heading, names in grouped.items():
        lines.append(f"{heading}:")
        for name in names:
            text = f"  {name:<20}{(commands[name].__doc__ or name).strip().splitlines()[0]}"
            lines.append(textwrap.fill(text, max(width, 40), subsequent_indent=22 * " "))
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. `argv`: arguments without the program's name; those of the process by default.

    Returns exit code: that of the command, 2 on bad input and where disk, memory or packages do not suffice (a line
    on stderr), 130 after an interruption. A defect is raised.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)  # what a terminal can show, and at once
    commands = find_commands()
    parser = build_parser(commands)
    args = _parsed(parser, argv)
    command = commands[args.command]
    try:
        check_arguments(parser, args)
        with Progress() as progress, forwarded_log(progress):
            return command.run(args)
    except (KeyboardInterrupt, Exception) as error:
        # A signal that arrives within a kernel comes out of it as the cause of a SystemError.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt):
            print(f"scene-completion {args.command}: interrupted", file=sys.stderr)
            return INTERRUPTED
        written = ", ".join(map(str, outputs(parser, args)))
        sentence = explained(error, written=written, extra=getattr(command, "EXTRA", "train"))
        if sentence is None:
            raise
        print(f"scene-completion {args.command}: {sentence}", file=sys.stderr)
        return BAD_INPUT


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line, with KEY=VALUE also behind options, where argparse before Python 3.13 takes no more."""
    args, further = parser.parse_known_args(argv)
    if further and (not hasattr(args, "overrides") or any(one.startswith("-") for one in further)):
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    if further:
        args.overrides = [*args.overrides, *further]
    return args


if __name__ == "__main__":
    sys.exit(main())
