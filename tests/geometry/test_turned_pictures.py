"""Images that are turned by 180° against their poses are told by how corners move in a hall that is drawn here."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.geometry.turned_pictures import Moment, turned_doubt
from tests.bags.recordings import HALL_CAMERA, hall

HALF_TURN = RigidTransform(rotation_of_angles(0.0, 0.0, math.pi), np.zeros(3))
Pixels = NDArray[np.uint8]


def moments(
    yaw: float = 2.0,  # degrees from one image to the next
    pitch: float = 2.0,  # to and fro
    aside: float = 0.0,  # metres, as a robot goes that can move sideways
    images: Callable[[Pixels], Pixels] = lambda image: image,
    by_tf: Callable[[RigidTransform], RigidTransform] = lambda pose: pose,
) -> list[Moment]:
    found: list[Moment] = []
    for index in range(8):
        turn = rotation_of_angles(0.0, math.radians(pitch * (index % 2) * (yaw != 0.0)), math.radians(yaw * index))
        ahead = 0.0 if aside else 0.3
        pose = RigidTransform(turn, np.array([ahead * index, aside * index, 1.0])) @ OPTICAL_FROM_FORWARD.inverse()
        image = np.ascontiguousarray(images(hall(pose)))
        found.append((index * 100_000_000, by_tf(pose), partial(np.copy, image)))
    return found


def turned(image: Pixels) -> Pixels:
    return image[::-1, ::-1]


@pytest.mark.parametrize("motion", [{}, {"yaw": 0.0, "aside": 0.35}, {"yaw": 0.0, "aside": -0.35}])
def test_turned_images_are_told_where_the_camera_turns_or_moves_aside(motion: dict[str, float]) -> None:
    assert not turned_doubt("/image", HALL_CAMERA, moments(**motion), hangs=False)
    said = turned_doubt("/image", HALL_CAMERA, moments(**motion, images=turned), hangs=False)
    assert said.startswith("by their motion the images of /image are turned by 180° against tf: of ")
    assert "Either the driver turns the images by 180°, or the roll of the camera in tf is wrong by that" in said


def test_the_other_way_round_the_images_are_upright() -> None:
    by_tf = moments(by_tf=lambda pose: pose @ HALF_TURN)
    said = turned_doubt("/image", HALL_CAMERA, by_tf, hangs=True)
    assert "images of /image are upright, while the camera hangs upside down by tf: of " in said


def test_a_camera_that_hangs_as_tf_says_is_no_doubt() -> None:
    hanging = moments(images=turned, by_tf=lambda pose: pose @ HALF_TURN)
    assert not turned_doubt("/image", HALL_CAMERA, hanging, hangs=True)


@pytest.mark.parametrize(
    "found",
    [
        moments(yaw=0.0, images=turned),  # straight ahead
        moments(images=lambda image: image[:, ::-1], pitch=0.2),  # a mirror
        moments(images=lambda image: np.full_like(image, 128)),  # no corners
        moments(images=turned)[:3],  # too few to be sure
        [],
    ],
    ids=["straight", "mirrored", "blank", "few", "none"],
)
def test_what_does_not_tell_is_no_doubt(found: list[Moment]) -> None:
    assert not turned_doubt("/image", HALL_CAMERA, found, hangs=False)


def test_images_that_cannot_be_read_are_left_out() -> None:
    def broken() -> Pixels:
        raise ImageError("cut short")

    found = [(stamp, pose, broken if index == 2 else image) for index, (stamp, pose, image) in enumerate(moments())]
    assert not turned_doubt("/image", HALL_CAMERA, found, hangs=False)
    found = [(*one[:2], broken if index == 2 else one[2]) for index, one in enumerate(moments(images=turned))]
    assert " in 5 pairs of images" in turned_doubt("/image", HALL_CAMERA, found, hangs=False)
