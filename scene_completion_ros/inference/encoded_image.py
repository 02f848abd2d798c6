"""What an encoder is, what it says of one image, and whether the image shows anything.

Of a covered lens, darkness or glare a network says something all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray


class EncodedImage(NamedTuple):
    """What an encoder says of one image."""

    features: NDArray[np.float32]  # float32 [h, w, C + E]
    # float32 [X, Y, Z], logits at the knots that the head reads; None where the encoder gives none.
    volume: NDArray[np.float32] | None = None
    # float32 [h', w'], z-depth of the pixels of `scene_query.ray_camera`, metres; beside a volume only.
    depth: NDArray[np.float32] | None = None
    # float32 [2, x, y], the ground in cells of the volume: its height there and the standard deviation of that, metres.
    # Of students that are told the camera's pose.
    surface: NDArray[np.float32] | None = None
    # float32 [K + 3, H / 2, W / 2], what pixels say by themselves, of students that take evidence; see
    # `StudentBundle.view_shape`.
    view: NDArray[np.float32] | None = None

    @staticmethod
    def of(outputs: Sequence[NDArray[np.float32]]) -> "EncodedImage":
        """Of the outputs of a graph, in order, for a batch of one image."""
        return EncodedImage(*(output[0] for output in outputs))


# What graphs are given beside an image, by name; and what makes that of `EncodedImage.view`, once it is known.
Given: TypeAlias = Mapping[str, NDArray[np.float32]]
GivenView: TypeAlias = Callable[[NDArray[np.float32]], Given]


class Encoder(Protocol):
    """Runs the encoder of one bundle."""

    name: str

    def encode(
        self, image_rgb: NDArray[np.uint8], beside: Given | None = None, given_view: GivenView | None = None
    ) -> EncodedImage:
        """What it says of a canonical image, uint8 [H, W, 3] RGB; overwritten by the next call.

        Raises ImageError where the image has another size or type. `beside`: what a graph is given that takes the
        camera's pose, see `StudentBundle.graph_inputs`; None where it takes none, or nobody knows the pose;
        `given_view`: what the decoder is given instead, of students that take evidence.
        """
        ...

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The features of `encode` alone."""
        return self.encode(image_rgb).features


ROWS = 24  # square cells that an image is cut into from top to bottom; two by two of them are looked at together
LEAST_EDGE = 4  # pixels along the side of a cell, at least
# Standard deviation of the grey values (0..255) from which a window shows something; sensors are less noisy.
FAINTEST = 2.0
# Share of windows from which an image counts as whole. Streets by day had 0.71 to 1, half covered 0.36 to 0.51.
MOSTLY = 0.6
BLIND = 0.3  # share of windows below which nothing counts as seen. The same streets, 25 times darker, had 0.05 to 0.26


def shown_share(image_rgb: NDArray[np.uint8], covered: NDArray[np.bool_] | None = None) -> float:
    """Share (0..1) of windows of an image, uint8 [H, W, 3] RGB, within `covered`, bool [H, W], with content."""
    grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= grey.mean()  # so that the difference of the squares keeps its digits in float32
    shows = _windows(grey * grey) - _windows(grey) ** 2 >= FAINTEST**2
    counted = np.ones_like(shows) if covered is None else _windows(covered.astype(np.float32)) > 0.999
    return float(shows[counted].mean()) if counted.any() else 1.0


def content_warning(shown: float) -> str:
    """What to say of an image by its `shown_share`; nothing where it shows enough."""
    if shown >= MOSTLY:
        return ""
    so = "no voxel counts as seen" if shown < BLIND else "the rest is a guess"
    return (
        f"only {100.0 * shown:.0f} % of the image shows anything, {so}. Is the lens covered, is it too dark or too "
        "bright, or are 16-bit values not scaled to 16 bits?"
    )


def _windows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over all windows of two by two cells."""
    edge = max(LEAST_EDGE, values.shape[0] // ROWS)
    rows, columns = (max(2, side // edge) for side in values.shape)
    cells = cv2.resize(values[: rows * edge, : columns * edge], (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.blur(cells, (2, 2))[1:, 1:], np.float32)
