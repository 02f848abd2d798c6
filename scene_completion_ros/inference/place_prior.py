"""Where things are before any image is seen: what a place ahead of the camera adds to the logit of its density."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.lattice import Lattice

_CURE = "Fit it again with scene-completion calibrate"


@dataclass(frozen=True, eq=False)
class PlacePrior:
    """The logit of a density becomes gain(p) x + logit(p), x what the network says of the image at the point p.

    With the gain 1 this is Bayes' rule for independent evidence: log odds add up. A gain below 1 says that the network
    is too sure of that place. Both are given at the knots of a regular lattice that moves with the camera, trilinear
    between knots, constant beyond the outer ones. Raises BundleError: fewer than two knots along an axis, shapes that
    differ, numbers that are not finite, negative gains or distances that are not positive.
    """

    gain: NDArray[np.float32]  # float32 [A, B, C], at least 0
    logit: NDArray[np.float32]  # float32 [A, B, C]
    lattice: NDArray[np.float32]  # float32 [2, 3], see `Lattice.placement`

    def __post_init__(self) -> None:
        problem = ""
        if self.gain.shape != self.logit.shape:
            problem = f"gain {self.gain.shape} and logit {self.logit.shape} instead of two volumes of one shape"
        elif not (np.isfinite(self.gain).all() and np.isfinite(self.logit).all()):
            problem = "a number is not finite"
        elif self.gain.size and self.gain.min() < 0.0:
            problem = "a gain is negative"
        if problem:
            raise BundleError(problem, where="place prior", cure=_CURE)
        self._knots.check("place prior", _CURE)

    @cached_property
    def _knots(self) -> Lattice:
        return Lattice(self.lattice, cast("tuple[int, int, int]", self.logit.shape))

    def at(self, points_camera: NDArray[np.floating]) -> NDArray[np.float32]:
        """Gain and logit at points [N, 3] (optical frame, metres): float32 [N, 2]."""
        return self._knots.sample(np.stack([self.gain, self.logit], axis=-1), points_camera)
