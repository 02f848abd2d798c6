"""Two numbers by which a student's densities render the depth of a drive best, without another order of its voxels.

Training leaves surfaces soft: part of a ray ends before a far wall, part goes through near ground. A field with
densities `softplus(k x + c)` instead of `softplus(x)`, x its logit, calls the same voxels denser than others. It is
sharper for k > 1.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.scene_query import inverse_distance_samples
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import composite, density_of_logit, logit_of_density
from scene_completion_training.evaluation.density_model import DensityModel, Observation
from scene_completion_training.evaluation.geometry import counted_depth
from scene_completion_training.networks.density_field import LAST_WEIGHTS

PIXELS = 2000  # pixels of a frame that are looked at, drawn from those with a depth
SAMPLES = 64
BOUNDS = ((-np.log(4.0), np.log(4.0)), (-4.0, 4.0))  # of ln k and c; who needs more has not learned depth


@dataclass(frozen=True)
class DensityStretch:
    """σ = softplus(scale · x + offset) of logits x."""

    scale: float = 1.0
    offset: float = 0.0

    def of_head(self, head: HeadWeights) -> HeadWeights:
        """A head with stretched densities. The offset goes to its place prior, if it has one, which is added last."""
        scale, offset, prior = np.float32(self.scale), np.float32(self.offset), head.prior
        if prior is not None:
            prior, offset = dataclasses.replace(prior, logit=scale * prior.logit + offset), np.float32(0.0)
        return dataclasses.replace(
            head,
            density_weight=scale * head.density_weight,
            density_bias=scale * head.density_bias + offset,
            prior=prior,
        )

    def of_weights(self, weights: Mapping[str, NDArray[Any]], *, prior: bool = False) -> dict[str, NDArray[Any]]:
        """The same of unfolded weights, in their own precision; the offset goes to a place prior if there is one."""
        offset = 0.0 if prior else self.offset
        changed = dict.fromkeys(LAST_WEIGHTS, (self.scale, 0.0)) | {"density_layer.bias": (self.scale, offset)}
        return {
            name: (values * np.float64(changed[name][0]) + changed[name][1]).astype(values.dtype)
            if name in changed
            else values
            for name, values in weights.items()
        }


@dataclass(frozen=True, eq=False)
class RayLogits:
    """Logits along the rays of some pixels of one frame."""

    logits: NDArray[np.float64]  # [R, K] at the distances of `inverse_distance_samples`
    length: NDArray[np.float64]  # distance along the ray of z-depth 1 [R]
    truth: NDArray[np.float64]  # true z-depth [R], metres
    distances: NDArray[np.float64]  # [K], metres

    def squared_log_error(self, stretch: DensityStretch) -> float:
        """Mean of (ln d − ln d*)², d the rendered z-depth."""
        density = density_of_logit(stretch.scale * self.logits + stretch.offset)
        depth = composite(density, self.distances).distance / self.length
        return float(np.mean(np.log(depth / self.truth) ** 2))


def fit_stretch(frames: Sequence[RayLogits]) -> DensityStretch:
    """The stretch with the smallest rmse_log (Eigen et al. 2014), mean over frames; never worse than none.

    Of the usual errors it is the one in which near and far count alike.
    """

    def error(numbers: NDArray[np.float64]) -> float:
        scale, offset = numbers
        stretch = DensityStretch(float(np.exp(scale)), float(offset))
        return float(np.mean([np.sqrt(frame.squared_log_error(stretch)) for frame in frames]))

    found = minimize(error, np.zeros(2), method="Nelder-Mead", bounds=BOUNDS, options={"xatol": 1e-3, "fatol": 1e-6})
    scale, offset = found.x
    return DensityStretch(float(np.exp(scale)), float(offset))


def rays_to_depth(
    model: DensityModel, sequence: PosedSequence, depths: Iterable[tuple[int, NDArray[np.float32]]]
) -> list[RayLogits]:
    """Logits of a student along rays to measured depths, at some of the pixels that have one.

    Of frames and their reference camera's depth [H, W], metres, 0 where there is none. Raises SequenceError where no
    frame has a depth that counts.
    """
    generator = np.random.default_rng(0)
    frames = []
    for index, measured in depths:
        truth = counted_depth(measured)
        hit = np.flatnonzero(truth)
        if len(hit):
            chosen = generator.choice(hit, min(PIXELS, len(hit)), replace=False)
            row, column = np.unravel_index(chosen, truth.shape)
            pixels = np.stack([column, row], axis=-1).astype(np.float64)
            frames.append(ray_logits(model.observe(sequence, index), pixels, truth[row, column]))
    if not frames:
        what = "no depth in the image"
        raise SequenceError(what, where=sequence.name, cure="Name a drive with LiDAR scans or a stereo pair")
    return frames


def ray_logits(seen: Observation, pixels: NDArray[np.float64], truth: NDArray[np.floating]) -> RayLogits:
    """Logits along the rays through pixels [R, 2] whose true z-depth [R] is known, metres."""
    distances = inverse_distance_samples(SAMPLES, *seen.depth_range)
    density, length = seen.along_rays(pixels, distances)
    return RayLogits(logit_of_density(density.astype(np.float64)), length, truth.astype(np.float64), distances)
