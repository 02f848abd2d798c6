"""All commands with their arguments, and command lines made of these."""

import argparse
from collections.abc import Iterator, Mapping

from scene_completion_ros import cli


def parsers(parser: argparse.ArgumentParser, *names: str) -> Iterator[tuple[list[str], list[argparse.Action]]]:
    """Every command with its arguments; `evaluate` has one for each protocol."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for name, of in action.choices.items():
            yield from parsers(of, *names, name)
    if not below:
        yield list(names), parser._actions


def line(command: list[str], actions: list[argparse.Action], given: Mapping[argparse.Action, object]) -> list[str]:
    """A command line with some arguments, and with something for all others that must be there."""
    options: list[str] = []
    positional = [*command]
    for action in actions:
        if action in given or action.required:
            filler = next(iter(action.choices)) if action.choices else "2" if action.type is int else "nothing"
            values = [str(given.get(action, filler))] * (action.nargs if isinstance(action.nargs, int) else 1)
            options += [action.option_strings[-1], *values] if action.option_strings else []
            positional += [] if action.option_strings else values
    return [*positional, *options]


FOUND = cli.find_commands()
COMMANDS = list(parsers(cli.build_parser(FOUND)))
