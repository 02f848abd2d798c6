"""Regular lattices of values that move with the camera, read between their knots."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry.grids import MOST_VOXELS
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform

_FORWARD = OPTICAL_FROM_FORWARD.inverse()


@dataclass(frozen=True, eq=False)
class Lattice:
    """Places of knots, by default in axes of the camera: x forward, y left, z up. Constant beyond the outer ones."""

    # float32 [2, 3], place of the first knot and distance of knots along each axis, metres.
    placement: NDArray[np.float32]
    knots: tuple[int, int, int]  # number of knots (A, B, C) along each axis

    def check(self, where: str, cure: str) -> None:
        """Raises a `BundleError` for fewer than two knots along an axis, or places that cannot be."""
        problem = ""
        if self.placement.shape != (2, 3) or len(self.knots) != 3 or min(self.knots) < 2:
            problem = f"{self.knots} knots, placed by {self.placement.shape}, not at least two knots an axis and (2, 3)"
        elif math.prod(self.knots) > MOST_VOXELS:
            problem = f"{self.knots} are more than {MOST_VOXELS:,} knots"
        elif not np.isfinite(self.placement).all() or self.placement[1].min() <= 0.0:
            problem = "a number is not finite, or a distance of knots is not positive"
        if problem:
            raise BundleError(problem, where=where, cure=cure)

    def taps(
        self, points_camera: NDArray[np.floating], lattice_from_camera: RigidTransform = _FORWARD
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The lowest of the eight knots around points [N, 3] (optical, metres), and shares of the next, 0..1."""
        size = np.array(self.knots)
        placed = lattice_from_camera.apply(points_camera.astype(np.float64))
        position = np.clip((placed - self.placement[0]) / self.placement[1], 0.0, size - 1.0)
        lowest = np.minimum(position.astype(np.int64), size - 2)
        return lowest, (position - lowest).astype(np.float32)

    def sample(self, values: NDArray[np.float32], points_camera: NDArray[np.floating]) -> NDArray[np.float32]:
        """Trilinear samples [N, ...] of values [A, B, C, ...] at points [N, 3] (optical frame, metres)."""
        lowest, share = self.taps(points_camera)
        flat = values.reshape(-1, *values.shape[3:])
        found = np.zeros((len(points_camera), *flat.shape[1:]), dtype=np.float32)
        for step in itertools.product((0, 1), repeat=3):
            weight = np.prod(np.where(step, share, 1.0 - share), axis=1, dtype=np.float32)
            index = np.ravel_multi_index((lowest + step).T, self.knots)
            found += weight.reshape(-1, *[1] * (flat.ndim - 1)) * flat[index]
        return found


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
