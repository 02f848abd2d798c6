"""Where things are before any image is seen: what a place ahead of the camera adds to the logit of its density."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD


@dataclass(frozen=True, eq=False)
class PlacePrior:
    """The logit of a density becomes gain(p) x + logit(p), x what the network says of the image at the point p.

    With the gain 1 this is Bayes' rule for independent evidence: log odds add up. A gain below 1 says that the network
    is too sure of that place. Both are given at the knots of a regular lattice that moves with the camera, trilinear
    between knots, constant beyond the outer ones.

    Attributes:
        gain: float32 [A, B, C], at least 0.
        logit: float32 [A, B, C].
        lattice: float32 [2, 3], place of the first knot and distance of knots along each axis, metres; axes of the
            camera: x forward, y left, z up.

    Raises:
        BundleError: Fewer than two knots along an axis, shapes that differ, numbers that are not finite, negative gains
            or distances that are not positive.
    """

    gain: NDArray[np.float32]
    logit: NDArray[np.float32]
    lattice: NDArray[np.float32]

    def __post_init__(self) -> None:
        knots = self.logit.shape
        problem = ""
        if self.gain.shape != knots or len(knots) != 3 or min(knots) < 2 or self.lattice.shape != (2, 3):
            problem = (
                f"gain {self.gain.shape}, logit {knots} and lattice {self.lattice.shape} instead of two volumes of one "
                "shape, at least two knots along each axis, and two rows of three"
            )
        elif not all(np.isfinite(values).all() for values in (self.gain, self.logit, self.lattice)):
            problem = "a number is not finite"
        elif self.gain.min() < 0.0 or self.lattice[1].min() <= 0.0:
            problem = "a gain is negative, or a distance of knots is not positive"
        if problem:
            raise BundleError(problem, where="place prior", cure="Fit it again with scene-completion calibrate")

    def at(self, points_camera: NDArray[np.floating]) -> NDArray[np.float32]:
        """Gain and logit at points [N, 3] (optical frame, metres): float32 [N, 2]."""
        size = np.array(self.logit.shape)
        values = np.stack([self.gain, self.logit], axis=-1).reshape(-1, 2)
        forward = OPTICAL_FROM_FORWARD.inverse().apply(points_camera.astype(np.float64))
        position = np.clip((forward - self.lattice[0]) / self.lattice[1], 0.0, size - 1.0)
        corner = np.minimum(position.astype(np.int64), size - 2)
        share = (position - corner).astype(np.float32)
        found = np.zeros((len(points_camera), 2), dtype=np.float32)
        for step in itertools.product((0, 1), repeat=3):
            weight = np.prod(np.where(step, share, 1.0 - share), axis=1, dtype=np.float32)
            found += weight[:, None] * values[np.ravel_multi_index((corner + step).T, self.logit.shape)]
        return found
