"""How a camera stands above the ground: planes made by hand, grades that change, and what says nothing."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.motion_scale import Scale, Travel
from scene_completion_ros.inference.road_calibration import MOST_OUTSIDE, Mounting, RoadCalibration

CAMERA = Camera(fx=300.0, fy=300.0, cx=255.5, cy=95.5, width=512, height=192)
HALF = CAMERA.resized(256, 96)
RAYS = HALF.unproject(HALF.pixel_centres())
SCALE = Scale(1.25, 0.03, why="")
Seen = tuple[NDArray[np.float32], NDArray[np.float32]]


def seen(down: tuple[float, float, float], height: float) -> Seen:
    """Depth, a fifth too small, of the ground with a normal down, and where it is seen."""
    fall = RAYS @ np.array(down)
    depth = np.where(fall > 0.01, height / np.maximum(fall, 0.01), 100.0)
    return (depth / 1.25).astype(np.float32), (depth < 30.0).astype(np.float32)[::2, ::2]


def along(down: tuple[float, float, float]) -> NDArray[np.float64]:
    """Straight ahead on the ground."""
    ahead = np.array([0.0, 0.0, 1.0]) - down[2] * np.array(down)
    return np.asarray(ahead / np.linalg.norm(ahead))


def driven(
    road: RoadCalibration, down: tuple[float, float, float], height: float, images: int = 10, step: float = 1.0
) -> Mounting:
    for _ in range(images):
        road.add(*seen(down, height), SCALE, Travel(step, along(down)))
    return road.mounting


def test_a_plane_by_hand() -> None:
    """sin(pitch) = 0.28 is 16.26°: straight ahead the ground is 1.4 / 0.28 = 5 m away. tan(roll) = 7 / 24: 16.26°."""
    depth, ground = seen((0.0, 0.96, 0.28), 1.4)
    assert 1.25 * depth[48, 128] == pytest.approx(5.0, rel=0.02) and ground[24, 64] == 1.0
    found = driven(RoadCalibration(CAMERA), (0.0, 0.96, 0.28), 1.4)
    assert math.degrees(found.pitch) == pytest.approx(16.26, abs=0.02) and abs(found.roll) < 1e-3
    assert found.height == pytest.approx(1.4, abs=0.01) and found.images == 10 and not found.why
    assert 0.03 * 1.4 < found.deviations[2] < 0.08 * 1.4  # not surer than the scale is
    rolled = driven(RoadCalibration(CAMERA), (0.28, 0.96, 0.0), 1.4)
    assert (math.degrees(rolled.pitch), math.degrees(rolled.roll)) == pytest.approx((0.0, 16.26), abs=0.1)
    assert Mounting.of(rolled.upright_from_camera).roll == pytest.approx(rolled.roll)
    assert -rolled.upright_from_camera.rotation[2] == pytest.approx([0.28, 0.96, 0.0], abs=0.01)


def test_rooms_are_measured_by_their_own_measure() -> None:
    small = driven(RoadCalibration(CAMERA, 0.25), (0.0, 0.96, 0.28), 0.35, step=0.25)
    assert small.height == pytest.approx(0.35, abs=0.003) and small.images == 10


def test_a_wrong_statement_is_named_with_both_numbers() -> None:
    found = driven(RoadCalibration(CAMERA), (0.0, 0.96, 0.28), 1.5, 30)
    level = Mounting(math.radians(14.26), 0.0, 1.5).upright_from_camera
    assert found.contradicts(level) == "looks 16.3 ± 0.3° down, stated are 14.3°"
    assert "1.50 ± 0.06 m above the ground, stated are 1.80 m" in found.contradicts(
        RigidTransform(found.upright_from_camera.rotation, np.array([3.0, 2.0, 1.8]))
    )
    for pitch, height in ((16.26, 1.5), (17.2, 1.5), (16.26, 1.54), (16.26, 1.6)):  # small, or not significant
        assert not found.contradicts(Mounting(math.radians(pitch), 0.0, height).upright_from_camera)
    first = driven(RoadCalibration(CAMERA), (0.0, 0.96, 0.28), 1.5, 1)
    assert not first.contradicts(level) and not first.sure and found.sure
    assert not Mounting().contradicts(level) and not Mounting().sure


def test_what_says_nothing() -> None:
    """A robot that stands, turns, sees no plane ground or does not know its scale; and each says so."""
    level, road = seen((0.0, 1.0, 0.0), 1.5), RoadCalibration(CAMERA)
    ahead = np.array([0.0, 0.0, 1.0])
    before = driven(road, (0.0, 1.0, 0.0), 1.5)
    for _ in range(20):
        standing = road.add(*level, SCALE, Travel(0.0, ahead))
    assert standing.why == "the camera hardly moved" and standing.deviations == before.deviations
    steps = {
        "turned by 10°": (level, SCALE, Travel(1.0, ahead, math.radians(10.0))),
        "only 3 corners": (level, Scale(1.25, 0.03, why="only 3 corners"), Travel(1.0)),
        "scale is not known": (level, Scale(why=""), Travel(1.0, ahead)),
        "too little of the image": ((level[0], 0.4 * level[1]), SCALE, Travel(1.0, ahead)),
        "differ by 2.0°": (level, SCALE, Travel(1.0, np.array([0.0, math.sin(math.radians(2.0)), 1.0]))),
    }
    for why, (image, scale, travel) in steps.items():
        assert why in road.add(*image, scale, travel).why
    assert road.mounting.images == 10 and road.mounting.deviations[0] >= before.deviations[0]
    rubble = np.random.default_rng(0).uniform(2.0, 14.0, RAYS.shape[:2]).astype(np.float32)
    assert "plane ground" in road.add(rubble, np.ones((48, 128), np.float32), SCALE, Travel(1.0, ahead)).why


def test_nothing_survives_a_jump() -> None:
    road = RoadCalibration(CAMERA)
    assert driven(road, (0.0, 1.0, 0.0), 1.5).sure
    lost = road.add(*seen((0.0, 1.0, 0.0), 1.5), Scale(why="odometry jumped by 9 m"), None)
    assert lost.deviations[0] == math.inf and lost.described() == "unknown; last image: odometry jumped by 9 m"
    assert driven(road, (0.0, 0.96, 0.28), 1.4, 5).pitch == pytest.approx(math.asin(0.28), abs=2e-3)


def test_a_camera_that_was_moved_is_believed_after_some_images() -> None:
    road = RoadCalibration(CAMERA)
    driven(road, (0.0, 1.0, 0.0), 1.5)
    assert "contradicts" in driven(road, (0.0, 0.96, 0.28), 1.5, MOST_OUTSIDE - 1).why
    assert driven(road, (0.0, 0.96, 0.28), 1.5, 5).pitch == pytest.approx(math.asin(0.28), abs=2e-3)


@pytest.mark.parametrize("radius", [60.0, 300.0, 1500.0, -200.0])
def test_a_grade_that_changes_misleads_by_no_more_than_is_said(radius: float) -> None:
    """From the level onto a hill of 5 %, or over its top, in an arc; the camera looks 2° down from 1.5 m."""
    reach = np.linspace(-10.0, 160.0, 3401)
    grade = np.clip(np.maximum(reach - 20.0, 0.0) / radius, -0.05, 0.05)
    road = np.stack([reach, np.cumsum(grade) * (reach[1] - reach[0])], axis=1)  # forward, up
    calibration, misled = RoadCalibration(CAMERA), []
    for place in np.arange(0.0, 110.0, 1.0):
        at = int(np.searchsorted(reach, place))
        angle = math.atan(grade[at])
        up, pitch = np.array([-math.sin(angle), math.cos(angle)]), math.radians(2.0) - angle
        points = road[at + 20 :] - road[at] - 1.5 * up
        z = points @ [math.cos(pitch), -math.sin(pitch)]
        y = -points @ [math.sin(pitch), math.cos(pitch)]
        shown = np.minimum.accumulate(np.where(z > 0.5, y / z, np.inf))
        inverse = np.interp(-RAYS[..., 1], -shown, 1.0 / z)
        depth = np.where(RAYS[..., 1] > shown[-1], 1.0 / inverse, 150.0)
        ground = (depth < 40.0).astype(np.float32)[::2, ::2]
        ahead = np.array([0.0, -math.sin(math.radians(2.0)), math.cos(math.radians(2.0))])
        found = calibration.add((depth / 1.25).astype(np.float32), ground, SCALE, Travel(1.0, ahead))
        if found.images:
            errors = np.array([found.pitch - math.radians(2.0), found.height - 1.5])
            misled.append(np.abs(errors / np.array(found.deviations)[[0, 2]]))
    assert len(misled) > 100 and np.max(misled) < 2.0
    assert found.images > 60 and math.degrees(found.pitch) == pytest.approx(2.0, abs=0.25)
