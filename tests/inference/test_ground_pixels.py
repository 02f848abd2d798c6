"""The ground as its pixels show it: of planes, slopes and steps that are known exactly."""

import numpy as np
import pytest

from scene_completion_ros.arrays import Doubles, Floats
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.inference.cells import ROAD, CellVolume
from scene_completion_ros.inference.ground_pixels import SPREAD_M, seen_ground

CAMERA = Camera(fx=185.0, fy=185.0, cx=159.5, cy=46.0, width=320, height=96)
HEIGHT = 1.65
VOLUME = CellVolume(
    VoxelGrid((0.0, -12.8, -2.4), 0.2, (256, 128, 24), "forward"), -HEIGHT, ROAD, 0, 3, 4, on_ground=(0, 1)
)
X, Y = 0.2 + 0.4 * np.arange(128), -12.6 + 0.4 * np.arange(64)  # middles of the columns


def looks_at(slope: float, aside: float, pose: RigidTransform, *, doubt: float = 0.02) -> tuple[Floats, Doubles]:
    """Surfaces and probabilities of a ground z = slope x + aside y - `HEIGHT` in the volume."""
    rays = CAMERA.unproject(CAMERA.pixel_centres()) @ pose.rotation.T
    above = HEIGHT + pose.translation[2] - slope * pose.translation[0] - aside * pose.translation[1]
    fall = slope * rays[..., 0] + aside * rays[..., 1] - rays[..., 2]
    depth = np.where(fall > 1e-3, above / np.maximum(fall, 1e-3), 70.0)
    surfaces = np.stack([np.log(depth), np.full_like(depth, doubt)], axis=-1).astype(np.float32)
    return surfaces, ((fall > 1e-3) & (depth < 70.0)).astype(np.float64)


def found(surfaces: Floats, on_ground: Doubles, pose: RigidTransform) -> Floats:
    """Of columns [x, y, 3]."""
    return seen_ground(surfaces, on_ground, CAMERA, VOLUME, pose.matrix).reshape(128, 64, 3)


@pytest.mark.parametrize(("slope", "aside"), [(0.0, 0.0), (0.04, 0.0), (0.02, -0.03)])
def test_a_plane_is_met_wherever_it_is_seen_and_continued_beyond(slope: float, aside: float) -> None:
    """Of a camera that rolls, pitches, and stands higher than usual; gaps between far rows of pixels are filled."""
    turn = RigidTransform(rotation_of_angles(0.03, 0.02, 0.0), np.array([0.0, 0.0, 0.2]))
    pose = turn @ DEFAULT_GRID_FROM_CAMERA
    height, count, spread = np.moveaxis(found(*looks_at(slope, aside, pose), pose), 2, 0)
    expected = slope * X[:, None] + aside * Y
    ahead = X < 40.0
    known = (np.abs(Y) < 0.6 * X[:, None]) & (X[:, None] > 7.0) & (np.abs(expected) < 1.3)
    assert np.abs(height - expected)[known & ahead[:, None]].max() < 0.12
    assert np.abs(height - expected)[known & (X < 20.0)[:, None]].max() < 0.05
    assert count[(X > 8.0) & (X < 10.0)][:, 30:34].min() > 1.0  # log (1 + count)
    assert not count[X > 22.0][:, 32].all()  # rows of pixels are metres apart there
    assert spread[(X > 8.0) & (X < 10.0)][:, 30:34].max() < 0.05


def test_what_stands_on_the_ground_is_none_of_it() -> None:
    """Pixels of no ground do not count, nor do single heights a metre off; without any the ground is as usual."""
    surfaces, on_ground = looks_at(0.0, 0.0, DEFAULT_GRID_FROM_CAMERA)
    surfaces[50:60, 100:220, 0] = np.log(6.0)  # a car
    on_ground[50:60, 100:220] = 0.3
    height, count, _ = np.moveaxis(found(surfaces, on_ground, DEFAULT_GRID_FROM_CAMERA), 2, 0)
    assert np.abs(height[10:75, 28:36]).max() < 0.05
    assert count[20:25, 30:34].all() and not count[60:75, 30:34].any()  # its shadow begins 22 m away
    nothing = found(surfaces, np.zeros_like(on_ground), DEFAULT_GRID_FROM_CAMERA)
    np.testing.assert_allclose(nothing, np.broadcast_to(np.float32([0.0, 0.0, SPREAD_M]), nothing.shape), atol=1e-6)


def test_a_kerb_keeps_its_height_and_widens_the_spread() -> None:
    """To the left of y = 2 m the ground lies 0.15 m higher."""
    surfaces, on_ground = looks_at(0.0, 0.0, DEFAULT_GRID_FROM_CAMERA)
    raised = surfaces.copy()
    raised[..., 0] += np.log((HEIGHT - 0.15) / HEIGHT)  # the same rays meet a higher plane
    rays = CAMERA.unproject(CAMERA.pixel_centres())
    left = -rays[..., 0] * np.exp(raised[..., 0]) > 2.0
    surfaces[left] = raised[left]
    height, _, spread = np.moveaxis(found(surfaces, on_ground, DEFAULT_GRID_FROM_CAMERA), 2, 0)
    near = (X > 6.0) & (X < 14.0)
    on_left, on_right = height[near][:, (Y > 3.0) & (Y < 5.0)], height[near][:, (Y > -5.0) & (Y < 1.0)]
    assert np.abs(on_left - 0.15).max() < 0.04 and np.abs(on_right).max() < 0.04
    at_kerb, on_road = spread[near][:, np.abs(Y - 2.0) < 0.5], spread[near][:, np.abs(Y + 2.0) < 1.5]
    assert at_kerb.min() > 1.5 * on_road.max()


def test_surer_pixels_count_more() -> None:
    """Of two rows of pixels that see the same columns at other heights, the surer ones are believed."""
    surfaces, on_ground = looks_at(0.0, 0.0, DEFAULT_GRID_FROM_CAMERA)
    high = np.arange(320) % 2 == 0
    surfaces[:, high, 0] += np.log((HEIGHT - 0.3) / HEIGHT)
    surfaces[:, high, 1] = 0.5
    height = found(surfaces, on_ground, DEFAULT_GRID_FROM_CAMERA)[..., 0]
    assert np.abs(height[15:30, 28:36]).max() < 0.05
