"""Options of several commands: what a student is told beside an image."""

import argparse

VIEWS = 1, 2, 3  # as many as `earlier_views.MOST_VIEWS`, which a command does not import for its help
SCALE_FROM = ("off", "odometry", "corners")


def add_scale_argument(
    parser: argparse._ActionsContainer, motion: str, default: str | None, by_default: str = "%(default)s"
) -> None:
    """Declare --scale-from. `motion`: what says how the camera moved; `by_default`: what holds without the option."""
    meaning = "scale depths by how far the camera moved since earlier images: `odometry`, for which that is "
    meaning += f"{motion}; `corners`: single corners also get a depth by that; or `off` (default: {by_default})"
    parser.add_argument("--scale-from", choices=SCALE_FROM, default=default, help=meaning)


def add_views_argument(parser: argparse._ActionsContainer, default: int | None, by_default: str = "1") -> None:
    """Declare --views. `by_default`: what holds without the option."""
    meaning = "complete each scene of so many images, that of now and earlier ones, by a student that takes them "
    meaning += f"(default: {by_default})"
    parser.add_argument("--views", type=int, choices=VIEWS, default=default, metavar="N", help=meaning)
