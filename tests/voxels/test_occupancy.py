from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, VoxelGrid
from scene_completion_ros.voxels import occupancy
from scene_completion_ros.voxels.occupancy import (
    Calibration,
    Thresholds,
    composite,
    density_of_logit,
    density_of_opacity,
    log_odds_of_probability,
    opacity,
    probability_of_log_odds,
)
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier, exp_negative, occupied_voxels
from scene_completion_ros.voxels.semantic_voxels import VoxelState


def test_the_compiled_exponential() -> None:
    x = -np.abs(np.linspace(-120.0, 120.0, 4001, dtype=np.float32))
    np.testing.assert_allclose(np.array(list(map(exp_negative, x))), np.exp(x.astype(np.float64)), atol=1e-6)


@pytest.mark.parametrize("library", ["NumPy", "torch"])
def test_each_step_has_its_way_back(library: str) -> None:
    torch = pytest.importorskip("torch")

    def same(name: str) -> Callable[..., Any]:
        function = getattr(occupancy, name)
        return (
            function if library == "NumPy" else lambda values, *size: function(torch.from_numpy(values), *size).numpy()
        )

    logit = np.linspace(-30.0, 30.0, 61)
    np.testing.assert_allclose(same("density_of_logit")(logit), np.log1p(np.exp(logit)), atol=1e-12)
    alpha = same("opacity")(np.array([0.0, 0.5, 3.0, 20.0]), 0.2)
    np.testing.assert_allclose(same("density_of_opacity")(alpha, 0.2), [0.0, 0.5, 3.0, 20.0], atol=1e-9)
    assert np.all(np.isinf(same("density_of_opacity")(np.array([1.0, 1.5]), 0.2)))
    probability = same("probability_of_log_odds")(np.array([-700.0, -2.0, 0.0, 1.0]))
    np.testing.assert_allclose(probability, [0.0, 1 / (1 + np.exp(2.0)), 0.5, 1 / (1 + np.exp(-1.0))], atol=1e-12)
    np.testing.assert_allclose(same("log_odds_of_probability")(probability[1:]), [-2.0, 0.0, 1.0], atol=1e-9)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_composite_against_the_product(samples: int) -> None:
    random = np.random.default_rng(samples)
    density, distances = random.uniform(0.0, 2.0, (5, samples)), np.cumsum(random.uniform(0.5, 3.0, samples))
    alpha = np.ones((5, samples))
    alpha[:, :-1] = 1.0 - np.exp(-density[:, :-1] * np.diff(distances))
    before = np.cumprod(np.concatenate([np.ones((5, 1)), 1.0 - alpha[:, :-1]], axis=1), axis=1)
    found = composite(density, distances)
    np.testing.assert_allclose(found.weights, alpha * before, atol=1e-12)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0)
    np.testing.assert_allclose(found.distance, (alpha * before) @ distances)


def test_torch_follows_the_gradients() -> None:
    torch = pytest.importorskip("torch")
    logit = torch.tensor([-30.0, -2.0, 0.0, 0.7, 3.0, 60.0], dtype=torch.float64, requires_grad=True)
    distances = torch.tensor([1.0, 1.5, 2.5, 4.0, 7.0, 12.0], dtype=torch.float64)
    for function in (
        density_of_logit,
        lambda x: opacity(density_of_logit(x), 0.2),
        lambda x: composite(density_of_logit(x), distances).distance,
        lambda x: log_odds_of_probability(probability_of_log_odds(x[:-1])),
        lambda x: density_of_opacity(opacity(density_of_logit(x[:-1]), 0.2), 0.2),
    ):
        assert torch.autograd.gradcheck(function, (logit,), atol=1e-6)


@pytest.mark.parametrize(
    ("knots", "message"),
    [
        (((0.1, 0.1), (0.2, 0.3)), "alpha: knots do not increase"),
        (((0.1, 0.2), (0.3, 0.2)), "probability: values decrease"),
        (((0.1, 0.2), (0.0, 0.0)), "probability: every value is 0, so that no voxel could ever be occupied"),
        (((0.1, 1.2), (0.2, 0.3)), "alpha: a value lies outside"),
        (((0.1, 0.2), (0.2, float("nan"))), "probability: a value lies outside"),
        (((0.1,), (0.2,)), "at least 2"),
        (((0.1, 0.2, 0.3), (0.2, 0.3)), "3 alpha knots and 2"),
    ],
)
def test_bad_knots_and_unknown_kinds_are_refused(knots: tuple[tuple[float, ...], ...], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Calibration("piecewise_linear", *knots)
    with pytest.raises(BundleError, match="platt"):
        Calibration("platt")  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.3, 0.4499, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    "calibration",
    [
        Calibration(),
        Calibration("piecewise_linear", (0.01, 0.1, 0.2, 0.7), (0.2, 0.5, 0.5, 0.9)),  # a plateau at the threshold
        Calibration("piecewise_linear", (0.0, 1 / 3), (0.3, 0.3)),
    ],
)
def test_a_threshold_of_probability_is_one_of_alpha(calibration: Calibration, threshold: float) -> None:
    first = calibration.occupied_from(threshold)
    assert first.dtype == np.float32
    near = [first * np.float32(1.0 + 1e-7 * i) for i in range(-3, 4)] if np.isfinite(first) else []
    alpha = np.clip(np.concatenate([np.linspace(0.0, 1.0, 1001), near]), 0.0, 1.0).astype(np.float32)
    np.testing.assert_array_equal(alpha >= first, calibration.apply(alpha) >= np.float32(threshold))


def test_identity_calibration_keeps_alpha_and_nan_is_survived() -> None:
    grid = VoxelGrid((0.0, -2.0, -2.0), 0.2, (20, 20, 24))
    rays = Camera(fx=60.0, fy=60.0, cx=47.5, cy=23.5, width=96, height=48)
    alpha = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    alpha[10, 10, 10] = np.nan
    everywhere = np.ones(grid.shape, dtype=bool)
    classify = VoxelClassifier(
        grid, DEFAULT_GRID_FROM_CAMERA.inverse(), rays, everywhere, Calibration(), Thresholds(0.5, 0.25)
    )
    seen_to = np.full((48, 96), np.inf, dtype=np.float32)
    probability, state = classify(alpha, seen_to)
    np.testing.assert_allclose(probability, alpha, atol=1e-7)
    assert state[10, 10, 10] == VoxelState.FREE_SEEN
    np.testing.assert_array_equal(state >= VoxelState.SURFACE, alpha >= 0.5)
    stands = np.indices(grid.shape)[2] >= 12  # what stands on the ground has a threshold of its own
    state = classify(alpha, seen_to, stands)[1]
    np.testing.assert_array_equal(state >= VoxelState.SURFACE, alpha >= np.where(stands, 0.25, 0.5))


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 11), (31, 33, 17)])
def test_occupied_voxels_are_listed_in_order(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    state, probability = random.integers(0, 5, shape).astype(np.uint8), random.random(shape).astype(np.float32)
    state[0, 0, -1] = VoxelState.COMPLETED
    expected = np.flatnonzero(state >= VoxelState.SURFACE)
    occupied, found = occupied_voxels(state, probability)
    np.testing.assert_array_equal(occupied, expected)
    np.testing.assert_array_equal(found, probability.reshape(-1)[expected])
