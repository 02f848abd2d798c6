"""The two numbers that sharpen a student's densities: what they do to depth, and what they leave alone."""

import math
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.inference.scene_query import inverse_distance_samples
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import composite, density_of_logit
from scene_completion_training.evaluation.density_model import DeployedModel
from scene_completion_training.evaluation.density_stretch import DensityStretch, RayLogits, fit_stretch, rays_to_depth
from tests.inference.small_bundle import make_small_bundle

DISTANCES = inverse_distance_samples(64, 3.0, 80.0)


def soft_walls(scale: float, offset: float, seed: int = 0) -> RayLogits:
    """Rays that end where a wall stands under the given stretch, which the logits are short of."""
    generator = np.random.default_rng(seed)
    sharp = np.where(generator.uniform(5.0, 40.0, (200, 1)) < DISTANCES, 2.0, -6.0)
    sharp += generator.normal(scale=0.3, size=sharp.shape)
    truth = composite(density_of_logit(sharp), DISTANCES).distance
    return RayLogits((sharp - offset) / scale, np.ones(200), truth, DISTANCES)


def test_error_of_one_ray_by_hand() -> None:
    # Two samples, at 2 and 6 m: the first stops 1 - exp(-softplus(0) * 4) = 15/16 of the ray.
    rays = RayLogits(np.zeros((1, 2)), np.array([2.0]), np.array([1.0]), np.array([2.0, 6.0]))
    depth = (15 / 16 * 2.0 + 1 / 16 * 6.0) / 2.0
    assert rays.squared_log_error(DensityStretch()) == pytest.approx(math.log(depth) ** 2)


@pytest.mark.parametrize(("scale", "offset", "tolerance"), [(1.8, 0.7, 0.15), (1.0, 0.0, 0.02)])
def test_fit_finds_the_stretch_that_the_logits_lack(scale: float, offset: float, tolerance: float) -> None:
    found = fit_stretch([soft_walls(scale, offset, seed) for seed in range(3)])
    assert found.scale == pytest.approx(scale, abs=tolerance)
    assert found.offset == pytest.approx(offset, abs=tolerance)


def test_a_drive_whose_depth_misses_the_image_is_refused(street: PosedSequence, tmp_path: Path) -> None:
    model = DeployedModel(make_small_bundle(tmp_path), threads=1)
    with pytest.raises(SequenceError, match="LiDAR"):
        rays_to_depth(model, street, [(0, np.zeros((24, 64), np.float32))])
