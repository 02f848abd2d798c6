"""The scale of images of how far their camera moved: two textured walls, seen on the way towards them."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.motion_scale import MotionScale, Scale

CAMERA = Camera(fx=300.0, fy=300.0, cx=255.5, cy=95.5, width=512, height=192)
STEP_NS = 100_000_000


def _textures() -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    blurred = (cv2.GaussianBlur(generator.random((1600, 1600)).astype(np.float32), (0, 0), 2.5) for _ in range(2))
    return [np.clip(127.0 + 900.0 * (each - each.mean()), 0, 255).astype(np.uint8) for each in blurred]


TEXTURES = _textures()


def seen_from(place: NDArray[np.float64], floor: float = np.inf) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Image and true depth of walls at z = 12 m, on the left, and 16 m, from a place, metres; floor: at y, metres."""
    rays = CAMERA.unproject(CAMERA.pixel_centres())
    walls = []
    for distance, texture in zip((12.0, 16.0), TEXTURES, strict=True):
        depth = distance - place[2]
        across = (place[:2] + rays[..., :2] * depth).astype(np.float32)
        u, v = (np.ascontiguousarray(60.0 * across[..., axis] + 800.0) for axis in (0, 1))
        walls.append((cv2.remap(texture, u, v, cv2.INTER_LINEAR), depth, across[..., 0]))
    left = walls[0][2] < 0.0
    image = np.where(left, walls[0][0], walls[1][0])
    depth = np.where(left, walls[0][1], walls[1][1]).astype(np.float32)
    beneath = np.where(rays[..., 1] > 0.0, (floor - place[1]) / np.maximum(rays[..., 1], 1e-6), np.inf)
    if np.isfinite(floor):
        at = np.nan_to_num(place + rays * beneath[..., None], posinf=0.0, neginf=0.0).astype(np.float32)
        u, v = (np.ascontiguousarray(60.0 * at[..., axis] + 800.0) for axis in (0, 2))
        image = np.where(beneath < depth, cv2.remap(TEXTURES[1], u, v, cv2.INTER_LINEAR), image)
        depth = np.minimum(depth, beneath).astype(np.float32)
    return np.repeat(image[..., None], 3, axis=2).astype(np.uint8), depth


def driven(
    motion: MotionScale, images: int = 10, *, factor: float = 1.2, unit: float = 1.0, step: float = 0.4, start: int = 0
) -> Scale:
    """A drive of metres towards the walls, whose depths the network predicts too small by a factor."""
    for number in range(start, start + images):
        place = np.array([0.125, 0.0, 1.0]) * step * number
        image, depth = seen_from(place)
        motion.add(image, depth / factor, RigidTransform(np.eye(3), unit * place), (1 + number) * STEP_NS)
    return motion.scale


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
def test_motion_gives_the_factor_of_depths(factor: float) -> None:
    found = driven(MotionScale(CAMERA), factor=factor)
    assert found.factor == pytest.approx(factor, rel=0.04) and not found.why
    assert abs(np.log(found.factor / factor)) < 2.0 * found.deviation < 0.2
    assert found.corners > 50 and 0.9 < found.baseline < 2.0


def test_useless_motion_leaves_the_factor_unknown() -> None:
    """A robot that stands; odometry in millimetres, or twice too long; images that do not move with the robot."""
    still = driven(MotionScale(CAMERA), step=0.0)
    assert (still.factor, still.deviation) == (1.0, np.inf) and "no earlier image" in still.why
    assert driven(MotionScale(CAMERA), unit=1000.0).deviation == np.inf
    image, depth = seen_from(np.zeros(3))
    twice = driven(MotionScale(CAMERA), unit=2.2, factor=1.0)
    assert twice.deviation == np.inf and "metres" in twice.why
    dirt = MotionScale(CAMERA)
    for number in range(8):
        pose = RigidTransform(np.eye(3), np.array([0.3, 0.0, 0.0]) * number)
        dirt.add(image, depth, pose, (1 + number) * STEP_NS)
    assert dirt.scale.deviation == np.inf and dirt.scale.why


def test_nothing_survives_a_jump() -> None:
    motion = MotionScale(CAMERA)
    assert driven(motion).deviation < 0.1
    image, depth = seen_from(np.zeros(3))
    after = motion.add(image, depth, RigidTransform(np.eye(3), np.array([500.0, 0.0, 0.0])), 20 * STEP_NS)
    assert (after.factor, after.deviation) == (1.0, np.inf) and "odometry jumped by 499.6 m" in after.why
    assert driven(motion, 2, start=30).deviation == np.inf  # seconds later: it begins anew


def test_a_drift_of_odometry_is_within_what_it_claims_not_to_know() -> None:
    found = driven(MotionScale(CAMERA), unit=1.05)
    assert abs(np.log(found.factor / 1.2)) < 2.0 * found.deviation


def test_a_new_street_is_believed_after_some_images() -> None:
    motion = MotionScale(CAMERA)
    driven(motion, 8)
    assert "contradicts" in driven(motion, 2, factor=0.8, start=8).why
    assert driven(motion, 12, factor=0.8, start=10).factor == pytest.approx(0.8, rel=0.1)


def wrong_wall(
    step: int, factor: float, edge: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Image, true depth, and one that puts the left wall too near by a factor, up to an edge at x, metres."""
    place = np.array([0.05, 0.0, 0.4]) * step
    image, depth = seen_from(place, floor=1.5)
    across = CAMERA.unproject(CAMERA.pixel_centres())[..., 0] * depth + place[0]
    left = (np.abs(depth - (12.0 - place[2])) < 1e-3) & (across < edge)
    if edge:  # most corners are on it
        image = np.where(left[..., None], image, 127 + (image - 127.0) * 0.1).astype(np.uint8)
    return image, depth, np.where(left, depth / factor, depth).astype(np.float32)


def test_one_wall_with_most_corners_is_not_the_scale_of_the_street() -> None:
    """A network that is right about the road and wrong about a building, whose corners alone give 1.6."""
    motion = MotionScale(CAMERA)
    for step in range(12):
        image, _, network = wrong_wall(step, 1.6, edge=-2.0)
        motion.add(image, network, RigidTransform(np.eye(3), np.array([0.05, 0.0, 0.4]) * step), (1 + step) * STEP_NS)
    assert motion.scale.factor < 1.25  # all corners alike: 1.45


def test_corners_have_a_depth_by_motion() -> None:
    motion = MotionScale(CAMERA)
    for step in range(16):
        image, true, network = wrong_wall(step, 1.2)
        pose = RigidTransform(np.eye(3), np.array([0.05, 0.0, 0.4]) * step)
        sensed = motion.depths(image, network, pose, (1 + step) * STEP_NS)
        assert (sensed is None) == (step < 3)  # less than a metre is too little
        motion.add(image, network, pose, (1 + step) * STEP_NS)
    assert sensed is not None
    half = (CAMERA.width // 2, CAMERA.height // 2)
    true, network = (1.0 / cv2.resize(1.0 / each, half, interpolation=cv2.INTER_AREA) for each in (true, network))
    known = sensed[1] > 0.0
    wrong = known & (true > 1.1 * network)
    assert np.count_nonzero(wrong) > 40 and np.count_nonzero(known & ~wrong) > 40
    off = sensed[0] - np.log(true)
    assert np.median(np.abs(off[known])) < 0.02 and np.median(np.abs(off[wrong])) < 0.03  # 0.18 by the network
    assert np.mean(off[known] ** 2 * sensed[1][known] < 9.0) > 0.9


def test_no_corner_has_a_depth_after_a_jump_or_where_nothing_fits() -> None:
    motion = MotionScale(CAMERA)
    driven(motion)
    image, depth = seen_from(np.array([0.5, 0.0, 4.0]))
    assert motion.depths(image, depth, RigidTransform(np.eye(3), np.array([500.0, 0.0, 0.0])), 11 * STEP_NS) is None
    here = RigidTransform(np.eye(3), np.array([0.5, 0.0, 4.0]))
    assert motion.depths(image, depth / 1.2, here, 11 * STEP_NS) is not None
    blank = np.full_like(image, 127)
    assert motion.depths(blank, depth / 1.2, here, 11 * STEP_NS) is None


@pytest.mark.parametrize("lag", [2, 4])
def test_odometry_that_begins_late_gives_no_wrong_factor(lag: int) -> None:
    """The first images move, and odometry stands still: the factor that follows is none for the images after."""
    motion = MotionScale(CAMERA)
    for number in range(14):
        image, depth = seen_from(np.array([0.05, 0.0, 0.4]) * number, floor=1.5)
        place = np.array([0.05, 0.0, 0.4]) * max(0, number - lag)
        found = motion.add(image, depth, RigidTransform(np.eye(3), place), (1 + number) * STEP_NS)
        assert abs(np.log(found.factor)) < 3.0 * found.deviation


@pytest.mark.parametrize("speed", [-0.2, 0.2, 0.4])
def test_a_train_next_to_the_robot_hardly_moves_the_factor(speed: float) -> None:
    motion, aside = MotionScale(CAMERA), int(0.3 * CAMERA.width)
    for number in range(12):
        place = np.array([0.05, 0.0, 0.4]) * number
        image, depth = seen_from(place, floor=1.5)
        image[:, :aside] = seen_from(place + np.array([0.0, 0.0, speed]) * number, floor=1.5)[0][:, :aside]
        motion.add(image, depth, RigidTransform(np.eye(3), place), (1 + number) * STEP_NS)
    assert abs(np.log(motion.scale.factor)) < 3.0 * motion.scale.deviation
