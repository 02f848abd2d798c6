"""Does a GPU engine compute what the CPU engine computes? The gate that every engine passes before it is kept.

Three errors of the worst image count: that of the whole map of features and that of its worst channel, both the root
mean square as a share of the right one's, and the largest of all values as a share of the map's. A channel that is
wrong alone does not hide in the others, nor does a value in its channel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError, ImageError
from scene_completion_ros.picture_files import read_rgb

GATE_IMAGES = Path(__file__).resolve().parent / "gate_images"
# A channel that is almost zero everywhere is measured as if it had this part of the map's root mean square.
QUIET_CHANNEL = 0.05
KINDS = ("map", "channel", "largest")
# Largest errors that pass, by precision and `KINDS`: about ten times what the graphs of the shipped student are off
# where a CPU rounds as they are typed. docs/gpu.md has what was measured.
LIMITS: Mapping[str, tuple[float, float, float]] = {"fp32": (1e-4, 1e-3, 5e-3), "fp16": (5e-3, 3e-2, 0.2)}


def check_parity(
    reference: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]], precision: str
) -> list[str]:
    """Compare what two engines say of the same images. Returns the errors of the features in words, with their limits.

    `reference`: of the CPU engine in fp32; `found`: of the GPU engine; `precision`: that of the GPU engine. Raises
    GpuError where one is beyond its limit, with the numbers.
    """
    names = [f"{kind} error of the features" for kind in KINDS]
    numbers = errors(list(zip(reference, found, strict=True))).tolist()
    limits = dict(zip(names, LIMITS[precision], strict=True))
    return require_within(dict(zip(names, numbers, strict=True)), limits, f"the {precision} engine")


def require_within(numbers: Mapping[str, float], limits: Mapping[str, float], what: str) -> list[str]:
    """All numbers in words, each with its limit. Raises GpuError: those beyond their limits."""
    lines = {name: f"{name} {value:.2e} (allowed {limits[name]:g})" for name, value in numbers.items()}
    missed = [lines[name] for name, value in numbers.items() if not value <= limits[name]]  # NaN misses, too
    if missed:
        cure = "It was discarded. Take another precision, or a CPU engine, and report this with all versions."
        raise GpuError(
            f"{what} does not compute what the CPU computes: {'; '.join(missed)}", where="parity gate", cure=cure
        )
    return list(lines.values())


def errors(pairs: Sequence[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]]) -> NDArray[np.float64]:
    """The worst of each of `KINDS` over pairs of a right map [h, w, C] and another; NaN or infinite where one is.

    Raises ValueError where the maps of a pair differ in shape.
    """
    worst = np.zeros(len(KINDS))
    for one, other in pairs:
        right, given = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if right.shape != given.shape:
            raise ValueError(f"a map of {given.shape} instead of {right.shape}")
        size = np.sqrt(np.mean(right**2, axis=(0, 1)))
        whole = np.sqrt(np.mean(size**2)).clip(min=np.finfo(np.float32).tiny)
        off = given - right
        channel = np.sqrt(np.mean(off**2, axis=(0, 1))) / np.maximum(size, QUIET_CHANNEL * whole)
        worst = np.maximum(worst, [np.sqrt(np.mean(off**2)) / whole, channel.max(), np.abs(off).max() / whole])
    return worst


def gate_images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Images for the gate: streets, cut to the proportions that are wanted, and scaled.

    Streets, because on noise of the same spectrum the error of fp16 was ten times as large. Returns uint8 [height,
    width, 3] RGB each. Raises GpuError where they are missing from the installation.
    """
    images = []
    for path in sorted(GATE_IMAGES.glob("*.jpg")):
        try:
            pixels = read_rgb(path)
        except ImageError as error:
            raise GpuError(error.what, where=str(path), cure="Install the package again.") from error
        rows, columns = pixels.shape[:2]
        rows = min(rows, max(round(columns * height / width), 1))
        columns = min(columns, max(round(rows * width / height), 1))
        top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
        cut = pixels[top : top + rows, left : left + columns]
        scaled = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
        images.append(np.ascontiguousarray(scaled, dtype=np.uint8))
    if not images:
        what = "there are no images for the parity gate"
        raise GpuError(what, where=str(GATE_IMAGES), cure="Install the package again.")
    return images
