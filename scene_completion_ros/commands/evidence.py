"""Options of several commands: what a student is told beside an image."""

import argparse

SCALE_FROM = ("off", "odometry", "corners")


def add_scale_argument(
    parser: argparse._ActionsContainer, motion: str, default: str | None, by_default: str = "%(default)s"
) -> None:
    """Declare --scale-from. `motion`: what says how the camera moved; `by_default`: what holds without the option."""
    meaning = "scale depths by how far the camera moved since earlier images: `odometry`, for which that is "
    meaning += f"{motion}; `corners`: single corners also get a depth by that; or `off` (default: {by_default})"
    parser.add_argument("--scale-from", choices=SCALE_FROM, default=default, help=meaning)
