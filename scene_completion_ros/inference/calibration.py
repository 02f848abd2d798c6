"""From alpha, the opacity of a voxel, to the probability that it is occupied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError


@dataclass(frozen=True)
class Calibration:
    """A monotone map alpha -> probability, fitted on validation data only.

    alpha itself is no probability: training by rendering keeps it far below 1. ``identity`` says that none was fitted.

    Attributes:
        kind: ``identity`` or ``piecewise_linear``.
        alpha: Knots, strictly increasing in 0..1; constant beyond the first and the last.
        probability: Value at each knot, non-decreasing in 0..1.

    Raises:
        BundleError: The knots are not monotone, not finite or outside 0..1.
    """

    kind: Literal["identity", "piecewise_linear"] = "identity"
    alpha: tuple[float, ...] = ()
    probability: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "identity":
            return
        where = "calibration"
        cure = "Fit the calibration again and export the bundle again."
        if self.kind != "piecewise_linear":
            raise BundleError(f"unknown kind {self.kind!r}", where=where, cure="Use identity or piecewise_linear.")
        if len(self.alpha) < 2 or len(self.alpha) != len(self.probability):
            raise BundleError(
                f"{len(self.alpha)} alpha knots and {len(self.probability)} probabilities; at least 2 of each, "
                "equally many, are needed",
                where=where,
                cure=cure,
            )
        alpha, probability = np.asarray(self.alpha), np.asarray(self.probability)
        for name, values in (("alpha", alpha), ("probability", probability)):
            if not np.all(np.isfinite(values)) or values.min() < 0.0 or values.max() > 1.0:
                raise BundleError("a value lies outside 0..1", where=f"{where}.{name}", cure=cure)
        if np.any(np.diff(alpha) <= 0.0):
            raise BundleError("knots do not increase strictly", where=f"{where}.alpha", cure=cure)
        if np.any(np.diff(probability) < 0.0):
            raise BundleError("values decrease", where=f"{where}.probability", cure=cure)

    def knots(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Knots (alpha, probability), float64 [K] each, of the piecewise linear map; the identity has two."""
        if self.kind == "identity":
            return np.array([0.0, 1.0]), np.array([0.0, 1.0])
        return np.asarray(self.alpha, dtype=np.float64), np.asarray(self.probability, dtype=np.float64)

    def apply(self, alpha: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of occupancy of alpha [...] (0..1): float32 [...], always a new array."""
        if self.kind == "identity":
            return np.array(alpha, dtype=np.float32)
        return np.interp(alpha, *self.knots()).astype(np.float32)

    def occupied_from(self, threshold: float) -> np.float32:
        """Smallest alpha, as float32, whose probability reaches a threshold; infinite where none does.

        The map is monotone: ``alpha >= occupied_from(threshold)`` says the same as ``apply(alpha) >= threshold``.
        """
        low, high = np.array([0.0, 1.0], dtype=np.float32).view(np.int32).tolist()
        if self.apply(np.ones(1, dtype=np.float32))[0] < np.float32(threshold):
            return np.float32(np.inf)
        while low < high:  # floats of one sign are ordered like their bits
            middle = (low + high) // 2
            alpha = np.array([middle], dtype=np.int32).view(np.float32)
            if self.apply(alpha)[0] >= np.float32(threshold):
                high = middle
            else:
                low = middle + 1
        return np.float32(np.array([low], dtype=np.int32).view(np.float32)[0])
