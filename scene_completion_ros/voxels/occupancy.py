"""Where density becomes occupancy: logit -> density -> opacity -> probability -> state.

A network gives a logit x for each point. All that renders, learns, publishes, fuses or evaluates goes on from there
with what stands here, on NumPy arrays and torch tensors alike:

    sigma = softplus(x)                        density, per metre: `density_of_logit`
    alpha = 1 - exp(-sigma delta)              opacity over a length: `opacity`
    w_i   = alpha_i prod_{j<i} (1 - alpha_j)   share of a ray that ends at a sample: `composite`
    p     = calibration(alpha)                 probability of being occupied: `Calibration`
    state of a voxel                           from p, the light that reaches it, and the view: `VoxelClassifier`

``occupancy_kernel`` has compiled twins of these, with the same names and arguments, and the states of voxels.
``inference/gpu`` has those of GPUs. `inference/march.py` goes through a grid of opacities with the same
weights, for depth and transmittance.
What a training learns of the step from logit to probability is `OccupancyLink` of the training side; a bundle holds
it as its calibration.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from array_api_compat import is_torch_namespace

from scene_completion_ros.arrays import Doubles, Floats
from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry.transforms import Array, floating

SEEN = 0.5  # a voxel is seen where at least this part of the light on a ray reaches it: T >= 0.5


def density_of_logit(logit: Array) -> Array:
    """Density sigma = softplus(x) = ln(1 + exp(x)), per metre, of logits x [...] (Behind the Scenes, section 3.1)."""
    xp, logit = floating(logit)
    if is_torch_namespace(xp):
        return xp.nn.functional.softplus(logit)  # its gradient overflows nowhere
    return xp.logaddexp(xp.zeros_like(logit), logit)


def opacity(density: Array, length: Array | float) -> Array:
    """Opacity alpha = 1 - exp(-sigma delta), 0..1, of densities [...] per metre over lengths [...] in metres."""
    xp, density = floating(density)
    return -xp.expm1(-density * length)


def density_of_opacity(alpha: Array, length: float) -> Array:
    """Density -ln(1 - alpha) / delta, per metre, whose opacity [...] over a length is alpha; infinite from 1 on."""
    xp, alpha = floating(alpha)
    below = alpha < 1.0
    return xp.where(below, -xp.log1p(-xp.where(below, alpha, xp.zeros_like(alpha))) / length, xp.inf)


def probability_of_log_odds(log_odds: Array) -> Array:
    """Probability 1 / (1 + exp(-l)), 0..1, of log odds l [...]."""
    xp, log_odds = floating(log_odds)
    return xp.sigmoid(log_odds) if is_torch_namespace(xp) else 1.0 / (1.0 + xp.exp(-log_odds))


def log_odds_of_probability(probability: Array) -> Array:
    """Log odds ln(p / (1 - p)) of probabilities [...]: what `probability_of_log_odds` undoes."""
    xp, probability = floating(probability)
    return xp.log(probability / (1.0 - probability))


class Composite(NamedTuple):
    """What alpha compositing gives."""

    weights: Array  # [..., K], the share of each ray that ends at each sample; they sum to 1
    distance: Array  # [...], expected distance of termination, metres


def composite(density: Array, distances: Array) -> Composite:
    """Alpha compositing along rays (Max 1995; Behind the Scenes, section 3).

    alpha_i = 1 - exp(-sigma_i (t_{i+1} - t_i)), w_i = alpha_i prod_{j<i} (1 - alpha_j). The last alpha is 1: what is
    left of a ray ends at its last sample. `density`: sigma [..., K], per metre; `distances`: t [..., K] or [K], metres
    along the ray, increasing.
    """
    xp, density = floating(density)
    optical = density[..., :-1] * (distances[..., 1:] - distances[..., :-1])
    last = xp.ones_like(density[..., :1])
    alpha = xp.concat([-xp.expm1(-optical), last], axis=-1)
    before = xp.concat([last, xp.exp(-xp.cumulative_sum(optical, axis=-1))], axis=-1)
    weights = alpha * before
    return Composite(weights, xp.sum(weights * distances, axis=-1))


class Thresholds(NamedTuple):
    """Probabilities from which a voxel counts as occupied: a missed obstacle costs more than a cube of grass."""

    ground: float
    obstacle: float  # of what stands on the ground


@dataclass(frozen=True)
class Calibration:
    """A monotone map alpha -> probability, fitted on validation data only.

    alpha itself is no probability: training by rendering keeps it far below 1. ``identity``: none was fitted.
    Raises BundleError where the knots are not monotone, not finite or outside 0..1, or all probabilities are 0.
    """

    kind: Literal["identity", "piecewise_linear"] = "identity"  # ``identity`` or ``piecewise_linear``
    alpha: tuple[float, ...] = ()  # knots, strictly increasing in 0..1; constant beyond the first and the last
    probability: tuple[float, ...] = ()  # value at each knot, non-decreasing in 0..1

    def __post_init__(self) -> None:
        if self.kind == "identity":
            return
        where = "calibration"
        cure = "Fit the calibration again and export the bundle again."
        if self.kind != "piecewise_linear":
            raise BundleError(f"unknown kind {self.kind!r}", where=where, cure="Use identity or piecewise_linear.")
        if len(self.alpha) < 2 or len(self.alpha) != len(self.probability):
            what = f"{len(self.alpha)} alpha knots and {len(self.probability)} probabilities; at least 2 of each, "
            raise BundleError(f"{what}equally many, are needed", where=where, cure=cure)
        alpha, probability = np.asarray(self.alpha), np.asarray(self.probability)
        for name, values in (("alpha", alpha), ("probability", probability)):
            if not np.all(np.isfinite(values)) or values.min() < 0.0 or values.max() > 1.0:
                raise BundleError("a value lies outside 0..1", where=f"{where}.{name}", cure=cure)
        if np.any(np.diff(alpha) <= 0.0):
            raise BundleError("knots do not increase strictly", where=f"{where}.alpha", cure=cure)
        if np.any(np.diff(probability) < 0.0):
            raise BundleError("values decrease", where=f"{where}.probability", cure=cure)
        if not probability.any():
            what = "every value is 0, so that no voxel could ever be occupied"
            raise BundleError(what, where=f"{where}.probability", cure=cure)

    def knots(self) -> tuple[Doubles, Doubles]:
        """Knots (alpha, probability), float64 [K] each, of the piecewise linear map; the identity has two."""
        if self.kind == "identity":
            return np.array([0.0, 1.0]), np.array([0.0, 1.0])
        return np.asarray(self.alpha, dtype=np.float64), np.asarray(self.probability, dtype=np.float64)

    def apply(self, alpha: Floats) -> Floats:
        """Probability of occupancy of alpha [...] (0..1): float32 [...], always a new array."""
        if self.kind == "identity":
            return np.array(alpha, dtype=np.float32)
        return np.interp(alpha, *self.knots()).astype(np.float32)

    def occupied_from(self, threshold: float) -> np.float32:
        """Smallest float32 alpha whose probability reaches a threshold, infinite if none; the map is monotone."""
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
