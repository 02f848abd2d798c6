"""Look-ups in the transform buffer."""

import math
import re

import numpy as np
import pytest

from scene_completion_ros.errors import BagError
from scene_completion_ros.messages.transform_buffer import TransformBuffer
from tests.bags.recordings import SECOND, START, transform


def moving_buffer() -> TransformBuffer:
    """map -> base_link drives along x and turns left; the camera sits on base_link, a LiDAR beside it."""
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
