"""Does a GPU engine compute what the CPU engine computes? The gate that every engine passes before it is kept.

Three numbers are compared with limits, each the worst of all images. They are the error of the whole map, that of the
worst channel, and the largest error of one value. The second is there since a channel that is wrong alone would hide in
the map's error. A volume, where the encoder gives one, is compared likewise; its channels are the layers of one height.
The error of a depth counts as a share of the right depth; its channels are the rows of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError, ImageError
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.picture_files import read_rgb

Output = Literal["features", "volume", "depth"]

GATE_IMAGES = Path(__file__).resolve().parent / "gate_images"
# A channel that is almost zero everywhere is measured as if it had this part of the map's root mean square.
QUIET_CHANNEL = 0.05


class ReferenceEncoder(Protocol):
    """The CPU's encoder of the same bundle."""

    def encode(self, image_rgb: NDArray[np.uint8]) -> EncodedImage:
        """What it says of a canonical image, uint8 [H, W, 3] RGB; overwritten by the next call."""
        ...


@dataclass(frozen=True)
class ParityLimits:
    """Largest errors that pass, in units of the reference's root mean square; of a depth, as a share of the right one.

    Attributes:
        map_error: Root mean square error of a map.
        channel_error: That of its worst channel, in units of that channel's root mean square.
        largest_error: Largest error of a value.
    """

    map_error: float
    channel_error: float
    largest_error: float


LIMITS: Mapping[str, ParityLimits] = {
    "fp32": ParityLimits(map_error=1e-4, channel_error=1e-3, largest_error=5e-3),
    "fp16": ParityLimits(map_error=5e-3, channel_error=3e-2, largest_error=0.2),
    "int8": ParityLimits(map_error=0.1, channel_error=0.5, largest_error=3.0),
}
"""By precision: about ten times what the graphs of the shipped student are off where a CPU rounds as they are typed. In
fp32 that is 1e-7, and the limit a thousand times."""

VOLUME_LIMITS: Mapping[str, ParityLimits] = {
    "fp32": LIMITS["fp32"],
    "fp16": ParityLimits(map_error=0.02, channel_error=0.05, largest_error=0.6),
    "int8": ParityLimits(map_error=0.25, channel_error=0.5, largest_error=5.0),
}
"""The same of volumes, whose root mean square is less than a logit. It is about eight times what a student with a
transformer for its trunk is off, see docs/gpu_engine.md."""


DEPTH_LIMITS: Mapping[str, ParityLimits] = {
    "fp32": ParityLimits(map_error=1e-4, channel_error=1e-3, largest_error=5e-3),
    "fp16": ParityLimits(map_error=5e-3, channel_error=0.02, largest_error=0.1),
    "int8": ParityLimits(map_error=0.05, channel_error=0.2, largest_error=0.8),
}
"""The same of depths, as shares of the right depth: ten times and more what small untrained students are off, see
docs/gpu_engine.md. They say 3 to 11 m; of what is farther away, an error of inverse depth is a larger share. A depth of
zero misses."""


@dataclass(frozen=True)
class Parity:
    """How far two engines are apart.

    Attributes:
        precision: That of the GPU engine.
        output: What was compared.
        images: How many were compared.
        map_error: See `ParityLimits`.
        channel_error: See `ParityLimits`.
        largest_error: See `ParityLimits`.
        not_finite: Values of the GPU engine that are no finite numbers.
    """

    precision: str
    output: Output
    images: int
    map_error: float
    channel_error: float
    largest_error: float
    not_finite: int

    @property
    def limits(self) -> ParityLimits:
        """What is allowed."""
        limits = {"features": LIMITS, "volume": VOLUME_LIMITS, "depth": DEPTH_LIMITS}[self.output]
        return limits[self.precision]

    @property
    def passed(self) -> bool:
        """Whether all of them are within the limits of the precision."""
        return not self.misses

    @property
    def misses(self) -> list[str]:
        """What is beyond its limit, with both numbers."""
        found = [f"{self.not_finite} values are not finite"] if self.not_finite else []
        for name, limit in vars(self.limits).items():
            value = getattr(self, name)
            if not value <= limit:
                found.append(f"{name.replace('_', ' ')} is {value:.3g} where {limit:.3g} is allowed")
        return found if self.output == "features" else [f"{self.output}: {miss}" for miss in found]

    def __str__(self) -> str:
        share = "the depth" if self.output == "depth" else "the root mean square"
        return (
            f"{self.output}: map error {self.map_error:.2e}, channel error {self.channel_error:.2e}, largest error "
            f"{self.largest_error:.2e} of {share} over {self.images} images"
        )

    def as_record(self) -> dict[str, Any]:
        """Plain values for a header."""
        return {**vars(self), "limits": dict(vars(self.limits))}

    def require(self) -> None:
        """Refuse an engine that missed.

        Raises:
            GpuError: With the numbers.
        """
        if self.misses:
            raise GpuError(
                f"the {self.precision} engine does not compute what the CPU computes: {'; '.join(self.misses)}",
                where="parity gate",
                cure="It was discarded. Take another precision, or a CPU engine, and report this with the versions.",
            )


def compare(
    reference: Sequence[NDArray[np.floating[Any]]],
    found: Sequence[NDArray[np.floating[Any]]],
    precision: str,
    output: Output = "features",
) -> Parity:
    """Compare an output of the same images.

    Args:
        reference: Of the CPU engine in fp32: features [h, w, C], volumes [X, Y, Z], or depths [h', w'].
        found: Of the GPU engine, likewise.

    Raises:
        ValueError: There are no images, not as many, or outputs of another shape.
    """
    if not reference or len(reference) != len(found) or precision not in LIMITS:
        raise ValueError(f"{len(reference)} maps cannot be compared with {len(found)} in {precision}")
    errors = []
    for one, other in zip(reference, found, strict=True):
        right, given = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if right.shape != given.shape:
            raise ValueError(f"{given.shape} cannot be compared with {right.shape}")
        if output == "depth":  # [w', 1, h'] of shares, so that a row is a channel
            right, given = np.ones_like(right).T[:, None], (given / right).T[:, None]
        errors.append(_errors(right, given))
    return Parity(
        precision=precision,
        output=output,
        images=len(reference),
        map_error=max(error[0] for error in errors),
        channel_error=max(error[1] for error in errors),
        largest_error=max(error[2] for error in errors),
        not_finite=sum(error[3] for error in errors),
    )


def _errors(reference: NDArray[np.float64], found: NDArray[np.float64]) -> tuple[float, float, float, int]:
    """The three errors of one map [h, w, C], and how many values are not finite; those count as zero."""
    finite = np.isfinite(found)
    difference = np.where(finite, found, 0.0) - reference
    scale = max(float(np.sqrt(np.mean(reference**2))), float(np.finfo(np.float32).tiny))
    channel_scale = np.maximum(np.sqrt(np.mean(reference**2, axis=(0, 1))), QUIET_CHANNEL * scale)
    channel_error = np.sqrt(np.mean(difference**2, axis=(0, 1))) / channel_scale
    map_error = float(np.sqrt(np.mean(difference**2)) / scale)
    return map_error, float(channel_error.max()), float(np.abs(difference).max() / scale), int((~finite).sum())


def gate_images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Images for the gate: streets, cut to the proportions that are wanted, and scaled.

    Streets, because the steps of int8 are fitted to such pictures. On noise of the same spectrum its error was thirty
    times as large, and that of fp16 ten times.

    Args:
        height: Pixels.
        width: Pixels.

    Returns:
        uint8 [height, width, 3] RGB each.

    Raises:
        GpuError: They are missing from the installation.
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
        raise GpuError(
            "there are no images for the parity gate", where=str(GATE_IMAGES), cure="Install the package again."
        )
    return images
