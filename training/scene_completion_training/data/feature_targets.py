"""Feature targets of images, as samples ask for them; who computes or stores them is another matter."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scene_completion_training.data.prepared import PreparedFrame


class FeatureTarget(NamedTuple):
    """Features of one variant of an image.

    Attributes:
        features: float16 [D, h, w].
        shift: (dy, dx) of the grid in the (mirrored) image, see `foundation.targets`.
        mirrored: Whether left and right of the image were swapped, before the shift.
    """

    features: Tensor
    shift: tuple[int, int]
    mirrored: bool


class FeatureTargets(Protocol):
    """Where a training has its feature targets from."""

    @property
    def dim(self) -> int:
        """Dimension of the features."""

    @property
    def cell(self) -> int:
        """Edge of the square of pixels that a token covers."""

    @property
    def variants(self) -> int:
        """Number of variants of an image; the odd ones are mirrored."""

    def get(self, key: str, image: NDArray[np.uint8], variant: int) -> FeatureTarget:
        """Features of a variant of an image.

        Args:
            key: Name of the image, see `frame_key`.
            image: RGB [H, W, 3], neither mirrored nor shifted.
            variant: Its number, see `variant_of`.
        """


def frame_key(frame: PreparedFrame, camera: str) -> str:
    """Key of a camera's image of a prepared frame: `<folder>/<stem>/<camera>` of the frame's file."""
    return f"{frame.name}/{camera}"
