"""The scale of images of how far their camera moved: two textured walls, seen on the way towards them."""

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.motion_scale import MotionScale, Scale

CAMERA = Camera(fx=300.0, fy=300.0, cx=255.5, cy=95.5, width=512, height=192)
COVERED = np.ones((CAMERA.height, CAMERA.width), np.bool_)
STEP_NS = 100_000_000
STEP = np.array([0.05, 0.0, 0.4])  # metres towards the walls between two images

View: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.float32]]


def _textures() -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    blurred = (cv2.GaussianBlur(generator.random((1600, 1600)).astype(np.float32), (0, 0), 2.5) for _ in range(2))
    return [np.clip(127.0 + 900.0 * (each - each.mean()), 0, 255).astype(np.uint8) for each in blurred]


TEXTURES = _textures()


def textured(texture: NDArray[np.uint8], at: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The texture of a surface at places [H, W, 2] on it, metres."""
    u, v = (np.ascontiguousarray(60.0 * at[..., axis] + 800.0, np.float32) for axis in (0, 1))
    return cv2.remap(texture, u, v, cv2.INTER_LINEAR)


def seen_from(place: NDArray[np.float64], floor: float = np.inf) -> View:
    """Image and true depth of walls at z = 12 m, on the left, and 16 m, from a place, metres; floor: at y, metres."""
    rays = CAMERA.unproject(CAMERA.pixel_centres())
    walls = []
    for distance, texture in zip((12.0, 16.0), TEXTURES, strict=True):
        depth = distance - place[2]
        across = place[:2] + rays[..., :2] * depth
        walls.append((textured(texture, across), depth, across[..., 0]))
    left = walls[0][2] < 0.0
    image = np.where(left, walls[0][0], walls[1][0])
    depth = np.where(left, walls[0][1], walls[1][1]).astype(np.float32)
    beneath = np.where(rays[..., 1] > 0.0, (floor - place[1]) / np.maximum(rays[..., 1], 1e-6), np.inf)
    if np.isfinite(floor):
        at = np.nan_to_num(place + rays * beneath[..., None], posinf=0.0, neginf=0.0)
        image = np.where(beneath < depth, textured(TEXTURES[1], at[..., ::2]), image)
        depth = np.minimum(depth, beneath).astype(np.float32)
    return np.repeat(image[..., None], 3, axis=2).astype(np.uint8), depth


def at(place: NDArray[np.float64]) -> RigidTransform:
    return RigidTransform(np.eye(3), place)


def driven(
    motion: MotionScale,
    images: int = 10,
    *,
    factor: float = 1.2,
    start: int = 0,
    seen: Callable[[int], View] = lambda step: seen_from(STEP * step),
    odometry: Callable[[int], NDArray[np.float64]] = lambda step: STEP * step,
) -> Scale:
    """A drive towards the walls, of images and depths by the step, which the network predicts too small by a factor."""
    for step in range(start, start + images):
        image, depth = seen(step)
        motion.add(image, depth / factor, at(odometry(step)), (1 + step) * STEP_NS)
    return motion.scale


@pytest.mark.parametrize(("factor", "drift"), [(0.85, 1.0), (1.0, 1.0), (1.2, 1.0), (1.2, 1.05)])
def test_motion_gives_the_factor_of_depths(factor: float, drift: float) -> None:
    found = driven(MotionScale(CAMERA, COVERED), factor=factor, odometry=lambda step: drift * STEP * step)
    assert found.factor == pytest.approx(factor, rel=0.04 + drift - 1.0) and not found.why
    assert abs(np.log(found.factor / factor)) < 2.0 * found.deviation < 0.2
    assert found.corners > 50 and 0.9 < found.baseline < 2.0


@pytest.mark.parametrize(
    ("seen", "odometry", "why"),
    [
        (0.0, STEP * 0.0, "no earlier image"),  # a robot that stands
        (1.0, STEP * 1000.0, ""),  # odometry in millimetres
        (1.0, STEP * 2.64, "metres"),  # odometry that is far too long
        (0.0, np.array([0.3, 0.0, 0.0]), ""),  # images that do not move with the robot
    ],
)
def test_useless_motion_leaves_the_factor_unknown(seen: float, odometry: NDArray[np.float64], why: str) -> None:
    found = driven(
        MotionScale(CAMERA, COVERED),
        seen=lambda step: seen_from(seen * STEP * step),
        odometry=lambda step: odometry * step,
    )
    assert (found.factor, found.deviation) == (1.0, np.inf)
    assert found.why and why in found.why


def test_nothing_survives_a_jump() -> None:
    motion = MotionScale(CAMERA, COVERED)
    assert driven(motion).deviation < 0.1
    image, depth = seen_from(STEP * 10)
    assert motion.depths(image, depth / 1.2, at(STEP * 10), 11 * STEP_NS) is not None
    assert motion.depths(np.full_like(image, 127), depth / 1.2, at(STEP * 10), 11 * STEP_NS) is None  # nothing fits
    jumped = np.array([500.0, 0.0, 0.0])
    assert motion.depths(image, depth, at(jumped), 11 * STEP_NS) is None
    after = motion.add(image, depth, at(jumped), 20 * STEP_NS)
    assert (after.factor, after.deviation) == (1.0, np.inf) and "odometry jumped by 499.6 m" in after.why
    assert driven(motion, 2, start=30).deviation == np.inf  # seconds later: it begins anew


def test_a_new_street_is_believed_after_some_images() -> None:
    motion = MotionScale(CAMERA, COVERED)
    driven(motion, 8)
    assert "contradicts" in driven(motion, 2, factor=0.8, start=8).why
    assert driven(motion, 12, factor=0.8, start=10).factor == pytest.approx(0.8, rel=0.1)


def wrong_wall(step: int, factor: float, edge: float = 0.0) -> tuple[View, NDArray[np.float32]]:
    """Image and a depth that puts the left wall too near by a factor, up to an edge at x, metres; the true depth."""
    place = STEP * step
    image, depth = seen_from(place, floor=1.5)
    across = CAMERA.unproject(CAMERA.pixel_centres())[..., 0] * depth + place[0]
    left = (np.abs(depth - (12.0 - place[2])) < 1e-3) & (across < edge)
    if edge:  # most corners are on it
        image = np.where(left[..., None], image, 127 + (image - 127.0) * 0.1).astype(np.uint8)
    return (image, np.where(left, depth / factor, depth).astype(np.float32)), depth


def test_one_wall_with_most_corners_is_not_the_scale_of_the_street() -> None:
    """A network that is right about the road and wrong about a building, whose corners alone give 1.6."""
    found = driven(MotionScale(CAMERA, COVERED), 12, factor=1.0, seen=lambda step: wrong_wall(step, 1.6, edge=-2.0)[0])
    assert found.factor < 1.25  # all corners alike: 1.45


def test_corners_have_a_depth_by_motion() -> None:
    motion = MotionScale(CAMERA, COVERED)
    for step in range(16):
        (image, network), true = wrong_wall(step, 1.2)
        stamp_ns = (1 + step) * STEP_NS
        sensed = motion.depths(image, network, at(STEP * step), stamp_ns)
        assert (sensed is None) == (step < 3)  # less than a metre is too little
        motion.add(image, network, at(STEP * step), stamp_ns)
    assert sensed is not None
    half = (CAMERA.width // 2, CAMERA.height // 2)
    true, network = (1.0 / cv2.resize(1.0 / each, half, interpolation=cv2.INTER_AREA) for each in (true, network))
    known = sensed[1] > 0.0
    wrong = known & (true > 1.1 * network)
    assert np.count_nonzero(wrong) > 40 and np.count_nonzero(known & ~wrong) > 40
    off = sensed[0] - np.log(true)
    assert np.median(np.abs(off[known])) < 0.02 and np.median(np.abs(off[wrong])) < 0.03  # 0.18 by the network
    assert np.mean(off[known] ** 2 * sensed[1][known] < 9.0) > 0.9


@pytest.mark.parametrize("lag", [2, 4])
def test_odometry_that_begins_late_gives_no_wrong_factor(lag: int) -> None:
    """The first images move, and odometry stands still: the factor that follows is none for the images after."""
    motion = MotionScale(CAMERA, COVERED)
    for step in range(14):
        found = driven(
            motion,
            1,
            start=step,
            factor=1.0,
            seen=lambda step: seen_from(STEP * step, floor=1.5),
            odometry=lambda step: STEP * max(0, step - lag),
        )
        assert abs(np.log(found.factor)) < 3.0 * found.deviation


@pytest.mark.parametrize("speed", [-0.2, 0.2, 0.4])
def test_a_train_next_to_the_robot_hardly_moves_the_factor(speed: float) -> None:
    aside, forward = int(0.3 * CAMERA.width), np.array([0.0, 0.0, 1.0])

    def seen(step: int) -> View:
        image, depth = seen_from(STEP * step, floor=1.5)
        image[:, :aside] = seen_from((STEP + speed * forward) * step, floor=1.5)[0][:, :aside]
        return image, depth

    found = driven(MotionScale(CAMERA, COVERED), 12, factor=1.0, seen=seen)
    assert abs(np.log(found.factor)) < 3.0 * found.deviation
