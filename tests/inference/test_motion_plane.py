"""The plane of the road by motion: a textured road between two walls, below a camera that stands askew."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, about, rotation_of_angles
from scene_completion_ros.inference.cells import FLOOR, ROAD
from scene_completion_ros.inference.motion_plane import MotionPlane, plane_of_pixels

CAMERA = Camera(fx=370.0, fy=370.0, cx=319.5, cy=92.0, width=640, height=192)
COVERED = np.ones((CAMERA.height, CAMERA.width), np.bool_)
STEP_NS = 100_000_000
ROLL, PITCH, HEIGHT = np.radians(-2.0), np.radians(1.5), 1.5  # of the camera above the road
WALL_M = 6.0  # to each side


def _texture(seed: int) -> NDArray[np.uint8]:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((2048, 2048)).astype(np.float32), (0, 0), 2.0)
    return np.clip(127.0 + 900.0 * (noise - noise.mean()), 0, 255).astype(np.uint8)


TEXTURES = _texture(0), _texture(1)


def looks(metres: float) -> RigidTransform:
    """Pose of the camera on a road z = 0 along x, so many metres on."""
    stands = RigidTransform(rotation_of_angles(ROLL, PITCH, 0.0), np.array([metres, 0.1, HEIGHT]))
    return stands @ OPTICAL_FROM_FORWARD.inverse()


def seen(pose: RigidTransform) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Image, its true depth at half the size, and the probabilities of the road there."""
    rays = CAMERA.unproject(CAMERA.pixel_centres())
    along = rays @ pose.rotation.T
    _, y, z = pose.translation
    with np.errstate(divide="ignore"):
        to_road = np.where(along[..., 2] < 0.0, -z / along[..., 2], np.inf)
        to_wall = np.where(along[..., 1] > 0.0, (WALL_M - y) / along[..., 1], (-WALL_M - y) / along[..., 1])
    depth = np.minimum(np.minimum(to_road, np.abs(to_wall)), 200.0)
    at = pose.translation + along * depth[..., None]
    on_road = to_road <= np.abs(to_wall)
    places = np.where(on_road, at[..., 1], at[..., 2] + 11.0), at[..., 0]
    u, v = (np.ascontiguousarray(np.mod(40.0 * place, 2047.0), np.float32) for place in places)
    road, wall = (cv2.remap(texture, u, v, cv2.INTER_LINEAR) for texture in TEXTURES)
    image = np.repeat(np.where(on_road, road, wall)[..., None], 3, axis=2)
    half = CAMERA.width // 2, CAMERA.height // 2
    shrunk = cv2.resize(1.0 / depth, half, interpolation=cv2.INTER_LINEAR)
    return image, (1.0 / shrunk).astype(np.float32), cv2.resize(on_road.astype(np.float32), half)


def driven(
    motion: MotionPlane, images: int = 8, *, step: float = 0.9, start: int = 0, drift: float = 0.0, factor: float = 1.0,
    stated: RoadPlane | None = None, size: float = 1.0,
) -> RoadPlane:  # fmt: skip
    """A drive of some images; `drift`: radians about x, y and z by which odometry turns wrongly at each; `factor`: on
    depths; `size`: of the world. The plane of the next image.
    """
    for number in range(start, start + images + 1):
        pose = looks(step * number)
        image, depth, on_road = seen(pose)
        pose = RigidTransform(pose.rotation, size * pose.translation)
        odometry = pose @ RigidTransform(about(2, drift * number) @ about(0, -drift * number), np.zeros(3))
        given = factor * size * depth, on_road, odometry, number * STEP_NS, stated
        plane = motion.plane(*given)
        if number < start + images:
            motion.add(image, *given)
    return plane


def off(plane: RoadPlane) -> list[float]:
    """Errors in degrees, and of the height in per cent."""
    angles = np.degrees([plane.roll - ROLL, plane.pitch - PITCH])
    return [*angles.tolist(), 100.0 * float(np.log(plane.height / HEIGHT))]


@pytest.mark.parametrize(("factor", "drift_deg"), [(1.0, 0.0), (1.2, 0.0), (0.85, 0.05)])
def test_motion_gives_the_plane_of_the_road(factor: float, drift_deg: float) -> None:
    """Whatever the network's scale is; odometry is as wrong as it is on vehicles."""
    motion = MotionPlane(CAMERA, COVERED, 1.65)
    plane = driven(motion, drift=np.radians(drift_deg), factor=factor)
    assert motion.why == "" and motion.measured > 6
    assert np.abs(off(plane)[:2]).max() < 0.2 and abs(off(plane)[2]) < 1.0, off(plane)
    assert np.degrees(plane.deviations[:2]).max() < 0.5 and plane.deviations[2] < 0.03


def test_motion_gives_the_plane_of_a_floor() -> None:
    """A corridor of a quarter of the size, and a camera in a hand, of which no mounting tells how it is held."""
    measure = 0.25
    motion = MotionPlane(CAMERA, COVERED, 0.5, FLOOR, measure)
    plane = driven(motion, factor=1.2, size=measure)
    assert motion.measured > 6
    roll, pitch, _ = off(plane)
    assert max(abs(roll), abs(pitch)) < 0.3 and abs(plane.height / (measure * HEIGHT) - 1.0) < 0.015, off(plane)


def test_a_wrong_mounting_is_not_taken_as_the_truth() -> None:
    """Stated level, while the camera is askew by 2 and 1.5 degrees."""
    level = RigidTransform(np.eye(3), np.array([0.0, 0.0, 1.5])) @ OPTICAL_FROM_FORWARD.inverse()
    stated = RoadPlane.of_mounting(level)
    motion = MotionPlane(CAMERA, COVERED, 1.65)
    alone = motion.plane(*seen(looks(0.0))[1:], looks(0.0), 0, stated)
    assert abs(off(alone)[0]) > 0.3
    assert np.abs(off(driven(motion, stated=stated))).max() < 0.4


def test_a_robot_that_stands_keeps_its_plane_and_trusts_it_less() -> None:
    motion = MotionPlane(CAMERA, COVERED, 1.65)
    driven(motion)
    here = looks(0.9 * 8)
    image, depth, on_road = seen(here)
    planes = []
    for number in range(8, 28):
        motion.add(image, depth, on_road, here, number * STEP_NS, None)
        planes.append(motion.plane(depth, on_road, here, (number + 1) * STEP_NS, None))
    before, after = planes[0], planes[-1]
    np.testing.assert_allclose(after.state, before.state, atol=1e-3)
    assert (after.deviations > before.deviations).all() and motion.why == "the camera has not moved"


def test_what_motion_cannot_show_is_said() -> None:
    motion = MotionPlane(CAMERA, COVERED, 1.65)
    driven(motion, 1)
    assert motion.why == "no earlier image at a distance that fits"
    image, depth, on_road = seen(looks(0.9))
    motion.add(image, depth, np.zeros_like(on_road), looks(0.9), STEP_NS, None)
    assert motion.why == "only 0 corners of the road were found again"
    motion.add(image, depth, on_road, "frame odom is unknown", 2 * STEP_NS, None)
    assert motion.why == "no odometry: frame odom is unknown" and motion.measured == 0


def test_nothing_survives_a_jump() -> None:
    motion = MotionPlane(CAMERA, COVERED, 1.65)
    sure = driven(motion)
    image, depth, on_road = seen(looks(0.0))
    motion.add(image, depth, on_road, looks(500.0), 9 * STEP_NS, None)
    assert motion.measured == 0 and motion.why == "no earlier image at a distance that fits"
    after = motion.plane(depth, on_road, looks(500.5), 10 * STEP_NS, None)
    assert (after.deviations > 2.0 * sure.deviations).all()


@pytest.mark.parametrize("turn", [np.radians(50.0), np.radians(180.0)])
def test_an_odd_camera_breaks_nothing(turn: float) -> None:
    """Rolled by 50 degrees, and upside down: whatever comes out are numbers."""
    motion = MotionPlane(CAMERA, COVERED, 1.65)
    for number in range(5):
        pose = looks(0.9 * number) @ RigidTransform(about(2, turn), np.zeros(3))
        image, depth, on_road = seen(pose)
        given = depth, on_road, pose, number * STEP_NS, RoadPlane.of_mounting(pose)
        motion.add(image, *given)
    assert np.isfinite(motion.plane(*given).state).all() and np.isfinite(motion.plane(*given).covariance).all()


def test_pixels_show_a_plane() -> None:
    half = CAMERA.resized(320, 96)
    _, depth, on_road = seen(looks(0.0))
    plane = plane_of_pixels(half, depth, on_road, ROAD)
    assert plane is not None
    assert np.abs(off(plane)).max() < 0.1
    assert plane_of_pixels(half, depth, np.zeros_like(on_road), ROAD) is None
