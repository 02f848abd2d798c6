"""The parity gate: what graphs, engines and kernels may be off from what they stand for, and pictures to compare on.

Every graph for GPUs passes it before it goes into a bundle, every engine and kernel before it is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError, ImageError
from scene_completion_ros.picture_files import read_rgb

GATE_IMAGES = Path(__file__).resolve().parent / "gate_images"
# A channel that is almost zero everywhere is measured as if it had this part of the map's root mean square.
QUIET_CHANNEL = 0.05
# How a bundle calls what was measured of a graph, and what it is; of the latter two, the limit is the least.
WORDS = {
    "features_relative": "mean difference of the map",  # as a share of its mean size
    "density_relative": "mean difference of the density",  # as a share of its mean
    "occupied_iou": "IoU of the occupied voxels",
    "labels_agreement": "agreement of the labels",
    "probability_mean": "mean difference of the probability",
}
AT_LEAST = ("occupied_iou", "labels_agreement")


@dataclass(frozen=True)
class Gate:
    """What is compared, with what, and how far it may be off."""

    what: str
    right: str  # what it is compared with
    limits: Mapping[str, float]  # by the names of the numbers that are measured: each the worst of all
    cure: str = "It was discarded. Take a CPU engine, and report this with all versions."

    def require(self, numbers: Mapping[str, float]) -> list[str]:
        """The numbers that have a limit, in words. Raises GpuError with those beyond theirs; NaN always is."""
        lines, missed = [], []
        for name, limit in self.limits.items():
            value, least = numbers[name], name in AT_LEAST
            lines.append(f"{WORDS.get(name, name)} {value:.4g} (allowed{' at least' if least else ''} {limit:g})")
            missed += [] if (value >= limit if least else value <= limit) else lines[-1:]
        if missed:
            what = f"{self.what} does not compute what {self.right} computes: {'; '.join(missed)}"
            raise GpuError(what, where="parity gate", cure=self.cure)
        return lines


# Two to three times what was measured of the shipped student on window 04, see docs/gpu.md: every result is rounded to
# 11 bits.
GRAPH = Gate(
    "the fp16 graph",
    "the student",
    {"features_relative": 2e-3, "density_relative": 5e-3, "occupied_iou": 0.993, "labels_agreement": 0.998},
    "The bundle stays as it was.",
)
# Of voxels in view, by bfloat16 on a CPU. `street` and `kitti_student` have an IoU of 0.99, `room` one of 0.97; none
# loses more than 0.3 points of AP on its validation recordings.
BF16 = Gate(
    "bfloat16",
    "single precision",
    {"probability_mean": 0.01, "occupied_iou": 0.96, "labels_agreement": 0.98},
    "The CPU computes in single precision.",
)
# Errors of `map_errors`, about ten times what the graph of the shipped student is off where a CPU rounds as it is
# typed; docs/gpu.md has what was measured.
ENGINE = Gate(
    "the engine",
    "the CPU",
    {"map error of the features": 5e-3, "channel error of the features": 3e-2, "largest error of the features": 0.2},
)
# On the same outputs of the encoder. Both sides compute in float32, in another order: an opacity is about 1e-5 off, a
# probability more where its map is steep. Where an opacity lies at a threshold, or a step of a ray at the border of a
# voxel, the decision may differ.
KERNELS = Gate(
    "the voxel query",
    "the CPU",
    {
        "alpha error": 1e-3,  # largest, of opacities
        "probability error": 2e-2,
        "state difference": 5e-3,  # part of the voxels in view
        "sight difference": 0.02,  # part of the rays of which a length or transmittance is off by too much
        "wrong labels": 0.0,  # of voxels that are occupied for both, by classes and by words, but for ties
        "confidence error": 5e-3,  # largest, as the next, of such voxels
        "cosine error": 1e-3,
        "wrong entries": 0.0,  # voxels that the list lacks, has too many, or with another probability than the grid
    },
)


def map_errors(right: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """The errors of maps [h, w, C] that `ENGINE` limits, each of the worst map; NaN or infinite where one is.

    The root mean squares of the whole map and of its worst channel, as shares of the right ones, and the largest of all
    values as a share of the map's: a channel that is wrong alone does not hide in the others, nor does a value in its
    channel.
    """
    worst = np.zeros(3)
    for one, other in zip(right, found, strict=True):
        wanted, given = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert wanted.shape == given.shape
        size = np.sqrt(np.mean(wanted**2, axis=(0, 1)))
        whole = np.sqrt(np.mean(size**2)).clip(min=np.finfo(np.float32).tiny)
        off = given - wanted
        channel = np.sqrt(np.mean(off**2, axis=(0, 1))) / np.maximum(size, QUIET_CHANNEL * whole)
        worst = np.maximum(worst, [np.sqrt(np.mean(off**2)) / whole, channel.max(), np.abs(off).max() / whole])
    return dict(zip(ENGINE.limits, worst.tolist(), strict=True))


def gate_images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Streets, uint8 [height, width, 3] RGB: on noise of their spectrum, the error of fp16 was ten times as large.

    Raises GpuError where they are missing from the installation.
    """
    try:
        images = [middle(read_rgb(path), height, width) for path in sorted(GATE_IMAGES.glob("*.jpg"))]
    except ImageError as error:
        raise GpuError(error.what, where=error.where, cure="Install the package again.") from error
    if not images:
        what = "there are no images for the parity gate"
        raise GpuError(what, where=str(GATE_IMAGES), cure="Install the package again.")
    return images


def middle(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of an image [H, W, 3], of these proportions, scaled to this size."""
    rows, columns = image.shape[:2]
    rows = min(rows, max(round(columns * height / width), 1))
    columns = min(columns, max(round(rows * width / height), 1))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    cut = image[top : top + rows, left : left + columns]
    return np.ascontiguousarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
