"""What an encoder is, and what it says of one image."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

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

    def copy(self) -> "EncodedImage":
        """One whose arrays nobody overwrites."""
        rest = (None if part is None else part.copy() for part in self[1:])
        return EncodedImage(self.features.copy(), *rest)

    @staticmethod
    def of(outputs: Sequence[NDArray[np.float32]]) -> "EncodedImage":
        """Of the outputs of a graph, in order, for a batch of one image."""
        return EncodedImage(*(output[0] for output in outputs))


class Encoder(Protocol):
    """Runs the encoder of one bundle."""

    name: str

    def encode(
        self, image_rgb: NDArray[np.uint8], beside: Mapping[str, NDArray[np.float32]] | None = None
    ) -> EncodedImage:
        """What it says of a canonical image, uint8 [H, W, 3] RGB; overwritten by the next call.

        Raises ImageError where the image has another size or type. `beside`: what a graph is given that takes the
        camera's pose, see `StudentBundle.graph_inputs`; None where it takes none, or nobody knows the pose.
        """
        ...

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The features of `encode` alone."""
        return self.encode(image_rgb).features
