"""Axes with units and ticks, drawn with OpenCV as all pictures of this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from scene_completion_ros.report.map_axes import FONT, INK, Picture

Colour: TypeAlias = tuple[int, int, int]
PALE: Colour = (220, 220, 220)
# Okabe-Ito, readable with any colour vision.
COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (130, 130, 130),
    (90, 60, 20), (160, 160, 60), (30, 30, 30),
)  # fmt: skip


def blank(height: int, width: int) -> Picture:
    """A white picture."""
    return np.full((height, width, 3), 255, dtype=np.uint8)


def text(picture: Picture, words: str, at: tuple[int, int], *, scale: float = 0.42, align: float = 0.0) -> None:
    """Write words with their baseline at (column, row); align 0 starts there, 0.5 is centred, 1 ends there."""
    # OpenCV's letters are ASCII.
    for letter, plain in (("σ", "sigma"), ("°", " deg"), ("–", "-")):
        words = words.replace(letter, plain)
    (width, _), _ = cv2.getTextSize(words, FONT, scale, 1)
    cv2.putText(picture, words, (round(at[0] - align * width), at[1]), FONT, scale, INK, 1, cv2.LINE_AA)


@dataclass(frozen=True)
class Axes:
    """A rectangle of a picture with data coordinates: x to the right, y up.

    Attributes:
        left, top, width, height: The rectangle, pixels.
        x_range, y_range: Data at its edges.
    """

    picture: Picture
    left: int
    top: int
    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of data coordinates."""
        across = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return round(self.left + across * self.width), round(self.top + (1.0 - up) * self.height)

    def draw(self, title: str, x_label: str, y_label: str, *, x_step: float | None, y_step: float) -> None:
        """Frame, ticks with numbers, labels and a title; no ticks along x without a step."""
        bottom = self.top + self.height
        for y in _ticks(self.y_range, y_step):
            row = self.pixel(self.x_range[0], y)[1]
            cv2.line(self.picture, (self.left - 4, row), (self.left, row), INK, 1)
            text(self.picture, f"{y:g}", (self.left - 7, row + 4), align=1.0)
        for x in _ticks(self.x_range, x_step) if x_step else ():
            column = self.pixel(x, self.y_range[0])[0]
            cv2.line(self.picture, (column, bottom), (column, bottom + 4), INK, 1)
            text(self.picture, f"{x:g}", (column, bottom + 18), align=0.5)
        cv2.rectangle(self.picture, (self.left, self.top), (self.left + self.width, bottom), INK, 1)
        text(self.picture, x_label, (self.left + self.width // 2, bottom + 36), align=0.5)
        text(self.picture, f"{title}   [up: {y_label}]" if y_label else title, (self.left, self.top - 9))

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, *, marked: bool = False) -> None:
        """A line through points, with a dot at each where marked."""
        pixels = [self.pixel(*point) for point in points]
        cv2.polylines(self.picture, [np.asarray(pixels, dtype=np.int32)], False, colour, 2, cv2.LINE_AA)
        for pixel in pixels if marked else ():
            cv2.circle(self.picture, pixel, 4, colour, -1, cv2.LINE_AA)


def legend(picture: Picture, entries: Sequence[tuple[str, Colour]], at: tuple[int, int]) -> None:
    """Names with their colours, one below the other."""
    for number, (name, colour) in enumerate(entries):
        row = at[1] + 18 * number
        cv2.rectangle(picture, (at[0], row - 9), (at[0] + 12, row + 1), colour, -1)
        text(picture, name, (at[0] + 18, row))


def _ticks(limits: tuple[float, float], step: float) -> list[float]:
    first, last = math.ceil(limits[0] / step - 1e-6), math.floor(limits[1] / step + 1e-6)
    return [round(step * number, 9) for number in range(first, last + 1)]
