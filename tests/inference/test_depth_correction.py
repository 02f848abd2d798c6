"""The correction of depth by hand: by nothing, by motion, by corners to one side, and by a road that lies elsewhere."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.inference.cells import ROAD
from scene_completion_ros.inference.depth_correction import (
    FAR_OFF,
    MIDDLE_M,
    SCALE_M,
    USUAL,
    Correction,
    Measured,
    PlaneMaps,
    basis,
    corrected_depth,
    depth_correction,
    plane_maps,
    with_corners,
)
from scene_completion_ros.inference.head import PointCodeSpec

CAMERA = Camera(fx=180.0, fy=180.0, cx=159.5, cy=45.0, width=320, height=96)
SPEC = PointCodeSpec(near=3.0, far=80.0)
SIZE = (CAMERA.height, CAMERA.width)
UNKNOWN = np.diag([1e3, 1e2, 1e1])  # precision of a plane
NO_ROAD, NO_CORNERS = np.zeros(SIZE, np.float32), np.zeros((2, *SIZE), np.float32)
LEVEL = np.array([0.0, 0.0, math.log(1.65)])


def inverse_of(depth: float) -> NDArray[np.float32]:
    return np.full(SIZE, 1.0 / depth, np.float32)


def maps(state: NDArray[np.float64] = LEVEL, precision: NDArray[np.float64] = UNKNOWN) -> PlaneMaps:
    return plane_maps(CAMERA, state.astype(np.float32), precision, ROAD)


def after(inverse: NDArray[np.float32], found: Correction) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    deviation = np.full(SIZE, 0.05, np.float32)
    corrected, doubt = corrected_depth(inverse, deviation, found.numbers, found.covariance, SPEC, 1.0)
    return 1.0 / corrected, doubt


def test_a_plane_is_as_far_as_its_height_says() -> None:
    """1.65 m below a level camera, a ray that falls by 0.25 m each metre meets it after 6.6 m; the sky never does."""
    found, step = maps(), 1e-4
    row = int(CAMERA.cy + 0.25 * CAMERA.fy)
    assert found.log_depth[row, 30] == pytest.approx(math.log(6.6), abs=1e-5) and found.counts[row, 30] == 1.0
    assert not found.counts[: int(CAMERA.cy) + 1].any()
    for number in range(3):
        off = step * np.eye(3)[number]
        above, below = (maps(LEVEL + sign * off).log_depth[60:] for sign in (1.0, -1.0))
        np.testing.assert_allclose(found.slopes[number, 60:], (above - below) / (2.0 * step), atol=0.02)


def test_nothing_known_leaves_depth_as_it_is_and_as_doubtful_as_usual() -> None:
    """In the middle of the image 12 m away only the first number counts: its deviation is 0.8 of 0.1."""
    inverse = inverse_of(MIDDLE_M)
    found = depth_correction(inverse, NO_ROAD, maps(), ROAD, 1.0)
    assert not found.numbers.any() and not found.plane.any()
    depth, doubt = after(inverse, found)
    np.testing.assert_allclose(depth, MIDDLE_M, rtol=1e-6)
    expected = math.sqrt(0.05**2 + (USUAL[0] * ROAD.scale_deviation) ** 2 + (FAR_OFF * MIDDLE_M) ** 2)
    assert doubt[50, 159] == pytest.approx(expected, rel=1e-3)
    assert doubt[50, 0] > doubt[50, 159] and doubt[50, -1] == pytest.approx(doubt[50, 0])


def test_a_factor_by_motion_counts_by_its_precision() -> None:
    """A factor of e^0.1, deviation 0.05, of corners 8 m away, by Bayes' rule for one observation."""
    measured = Measured(np.array([0.1, 0.05**-2], np.float32), NO_CORNERS)
    found = depth_correction(inverse_of(12.0), NO_ROAD, maps(), ROAD, 1.0, measured)
    row = np.array([1.0, 0.0, math.log(SCALE_M / MIDDLE_M), 0.0])
    usual = np.diag(np.square(np.multiply(USUAL, ROAD.scale_deviation)))
    gain = usual @ row / (row @ usual @ row + 0.05**2)
    np.testing.assert_allclose(found.numbers, gain * 0.1, atol=1e-9)
    np.testing.assert_allclose(found.covariance, usual - np.outer(gain, row @ usual), atol=1e-9)


def test_corners_to_one_side_correct_that_side() -> None:
    """Depths are a tenth too large on the right, right on the left, and right nowhere in between: a slope over u."""
    sensed = NO_CORNERS.copy()
    rows, columns = (part.ravel() for part in np.meshgrid(range(20, 90, 10), range(10, 320, 20), indexing="ij"))
    across = (columns - 159.5) / 160.0
    sensed[0, rows, columns], sensed[1, rows, columns] = math.log(12.0) - 0.05 * (1.0 + across), 0.02**-2
    found = depth_correction(inverse_of(12.0), NO_ROAD, maps(), ROAD, 1.0, Measured(np.zeros(2, np.float32), sensed))
    depth, doubt = after(inverse_of(12.0), found)
    assert depth[50, 310] == pytest.approx(12.0 * math.exp(-0.097), rel=0.03)
    assert depth[50, 10] == pytest.approx(12.0, rel=0.02)
    assert (
        doubt[50, 310]
        < after(inverse_of(12.0), depth_correction(inverse_of(12.0), NO_ROAD, maps(), ROAD, 1.0))[1][50, 310]
    )
    sensed[0, 20:40, 200:] = np.where(sensed[1, 20:40, 200:] > 0.0, math.log(30.0), 0.0)  # a car that moves by itself
    again = depth_correction(inverse_of(12.0), NO_ROAD, maps(), ROAD, 1.0, Measured(np.zeros(2, np.float32), sensed))
    assert after(inverse_of(12.0), again)[0][50, 10] == pytest.approx(12.0, rel=0.03)


def road_seen(plane: RoadPlane) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inverse depth and probability of a road, 30 m ahead the sky."""
    v, u = np.indices(SIZE)
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(SIZE)], axis=-1)
    inverse = np.clip(rays @ plane.down / plane.height, 1.0 / 30.0, None)
    return inverse.astype(np.float32), (inverse > 1.0 / 29.0).astype(np.float32)


@pytest.mark.parametrize(("stated", "gain"), [(np.radians(0.1), 1.0), (np.radians(10.0), 0.0)])
def test_a_sure_plane_moves_depth_and_a_doubtful_one_is_moved(stated: float, gain: float) -> None:
    """The network sees the road 12 % too far away, and level; the plane is as stated, or said to pitch by a degree."""
    inverse, on_road = road_seen(RoadPlane(0.0, 0.0, 1.65, np.eye(3)))
    pitch = 0.0 if gain else math.radians(1.0)
    precision = np.diag(1.0 / np.square([stated, stated, 0.005 if gain else 0.5]))
    found = depth_correction(inverse / 1.12, on_road, maps(np.array([0.0, pitch, LEVEL[2]]), precision), ROAD, 1.0)
    depth, _ = after(inverse / 1.12, found)
    near = 80, 160  # 8.5 m away
    assert math.log(depth[near] * inverse[near]) == pytest.approx((1.0 - gain) * math.log(1.12), abs=0.03)
    assert math.degrees(found.plane[1]) + math.degrees(pitch) == pytest.approx(0.0, abs=0.2)  # of one degree
    assert np.sqrt(np.diag(found.plane_covariance))[1] < stated


def test_a_corner_corrects_its_pixel_and_less_surely_those_around_it() -> None:
    """In every eighth row something is 5 m away, known to 1 %, where the network sees 4 m, to 10 %."""
    log_depth, deviation = np.full(SIZE, math.log(4.0), np.float32), np.full(SIZE, 0.1, np.float32)
    sensed = NO_CORNERS.copy()
    sensed[0, ::8], sensed[1, ::8] = math.log(5.0), 0.01**-2
    joined, surer = with_corners(log_depth, deviation, sensed)
    assert np.abs(np.exp(joined[::8]) - 5.0).max() < 0.05 and surer[::8].max() < 0.0101
    assert np.abs(np.exp(joined) - 5.0).max() < 0.3 and 0.05 < surer[2].max() < 0.065  # next to its rows
    alone = NO_CORNERS.copy()
    alone[0, 10, 10], alone[1, 10, 10] = math.log(5.0), 0.01**-2
    joined, surer = with_corners(log_depth, deviation, alone)
    assert joined[60, 200] == log_depth[60, 200] and surer[60, 200] == pytest.approx(0.1)  # far from any


def test_numpy_and_torch_correct_alike() -> None:
    generator = np.random.default_rng(0)
    plane = RoadPlane(0.03, 0.02, 1.5, np.eye(3))
    inverse, on_road = road_seen(plane)
    inverse = (inverse * np.exp(0.1 * generator.standard_normal(SIZE))).astype(np.float32)
    sensed = NO_CORNERS.copy()
    sensed[:, ::9, ::7] = np.array([math.log(14.0), 50.0], np.float32)[:, None, None]
    scale = np.array([0.05, 100.0], np.float32)
    given = maps(plane.state)
    found = depth_correction(inverse, on_road, given, ROAD, 1.0, Measured(scale, sensed))
    given_torch = plane_maps(
        CAMERA, *(torch.from_numpy(one)[None] for one in (plane.state.astype(np.float32), UNKNOWN)), ROAD
    )
    for one, other in zip(given, given_torch, strict=True):
        np.testing.assert_allclose(one, other[0].numpy(), rtol=1e-4, atol=1e-4)
    pixels = (torch.from_numpy(one)[None] for one in (inverse, on_road))
    measured = Measured(torch.from_numpy(scale)[None], torch.from_numpy(sensed)[None])
    batch = depth_correction(*pixels, given_torch, ROAD, 1.0, measured)
    for one, other in zip(found, batch, strict=True):
        np.testing.assert_allclose(one, other[0].numpy(), rtol=1e-2, atol=1e-5)
    assert basis(np.log(1.0 / inverse), 1.0).shape == (4, *SIZE)
