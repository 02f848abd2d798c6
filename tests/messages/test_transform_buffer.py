"""Transforms: look-ups, kept for a while on a running robot, never extrapolated unasked."""

import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.transforms import RigidTransform, rotation_of_angles
from scene_completion_ros.messages.transform_buffer import NoTransformError, TransformBuffer
from tests.bags.recordings import SECOND, START, transform


def moving_buffer() -> TransformBuffer:
    """map -> base_link drives along x and turns left; the camera and a LiDAR sit on base_link."""
    buffer = TransformBuffer()
    buffer.add_message(transform("base_link", "camera", (0.5, 0.0, 1.0)), static=True)
    buffer.add_message(transform("base_link", "lidar", (0.0, 0.0, 2.0)), static=True)
    for index in range(5):
        stamp = START + index * SECOND // 10
        buffer.add_message(transform("map", "base_link", (index * 1.0, 0.0, 0.0), stamp, yaw=index * 0.2), static=False)
    return buffer


def test_chain_goes_up_and_down_the_tree() -> None:
    buffer = moving_buffer()
    stamp = START + 2 * SECOND // 10
    cosine, sine = math.cos(0.4), math.sin(0.4)
    np.testing.assert_allclose(
        buffer.lookup("map", "camera", stamp).translation, [2 + 0.5 * cosine, 0.5 * sine, 1], atol=1e-12
    )
    np.testing.assert_allclose(buffer.lookup("camera", "lidar", stamp).translation, [-0.5, 0, 1], atol=1e-12)
    there, back = buffer.lookup("map", "lidar", stamp), buffer.lookup("lidar", "map", stamp)
    np.testing.assert_allclose((there @ back).matrix, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("/map", "/map", stamp).matrix, np.eye(4))
    with pytest.raises(BagError, match=r"'gps' to 'map'.*base_link, camera"):
        buffer.lookup("map", "gps", START)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (transform("map", "base_link", (math.nan, 0, 0)), "not finite"),
        (transform("map", "base_link", (0, 0, 0), scale=0.0), "unit length"),
        (transform("map", "base_link", (0, 0, 0), scale=math.inf), "not finite"),
        (transform("map", "base_link", (1e30, 0, 0)), "map -> base_link: further than 1e[+]09 m"),
        (transform("map", "map", (0, 0, 0)), "parent"),
    ],
)
def test_unusable_transforms_are_counted(message: object, reason: str) -> None:
    buffer = moving_buffer()
    buffer.add_message(message, static=False)
    assert sum(buffer.rejected.values()) == 1
    assert re.search(reason, next(iter(buffer.rejected)))
    assert np.isfinite(buffer.lookup("map", "camera", START).matrix).all()


def at(x: float, yaw: float = 0.0) -> RigidTransform:
    return RigidTransform(rotation_of_angles(0, 0, yaw), np.array([x, 0.0, 0.0]))


def place(buffer: TransformBuffer, stamp_ns: int, **limits: int) -> NDArray[np.float64]:
    return buffer.find("odom", "camera", stamp_ns, **limits).translation


@pytest.fixture
def buffer() -> TransformBuffer:
    """A robot that drives one metre a second from 10 s to 11 s, with a camera half a metre before its middle."""
    buffer = TransformBuffer(2 * SECOND)
    buffer.add("base", "camera", 0, at(0.5), static=True)
    for tenth in range(11):
        buffer.add("odom", "base", 10 * SECOND + tenth * SECOND // 10, at(tenth / 10), static=False)
    return buffer


@pytest.mark.parametrize(
    ("stamp_ns", "problem"), [(9_999_999_999, "before"), (11_020_000_001, "after"), (10_050_000_000, "gap")]
)
def test_what_is_missing_is_named_and_the_last_holds_for_the_tolerance(
    buffer: TransformBuffer, stamp_ns: int, problem: str
) -> None:
    limits = {"max_gap_ns": SECOND // 20, "tolerance_ns": 20_000_000}
    np.testing.assert_allclose(place(buffer, 11_020_000_000, **limits), [1.5, 0, 0])
    with pytest.raises(NoTransformError, match="odom -> base") as caught:
        place(buffer, stamp_ns, **limits)
    assert caught.value.problem == problem
    assert caught.value.cure


def test_a_recording_that_begins_anew_is_not_mixed_with_its_end(buffer: TransformBuffer) -> None:
    buffer.add("odom", "base", 10 * SECOND - SECOND // 2, at(100), static=False)  # a loop, 1.5 s back
    buffer.add("odom", "base", 10 * SECOND, at(101), static=False)
    np.testing.assert_allclose(place(buffer, 10 * SECOND), [101.5, 0, 0])
    with pytest.raises(NoTransformError, match="after the last"):
        place(buffer, 10 * SECOND + SECOND // 2)
