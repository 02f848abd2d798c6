"""Which CameraInfo belongs to an image."""

from __future__ import annotations

import pytest

from scene_completion_ros.ros import messages
from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.receive.camera_input import KEPT, CameraInfoMatch
from tests.ros.camera_to_voxels import CAMERA, SECOND_NS


def match(*stamps_ns: int) -> CameraInfoMatch:
    match = CameraInfoMatch("/camera_info")
    for stamp_ns in stamps_ns:
        match.add(messages.camera_info_message(CAMERA, stamp_ns, "front"))
    return match


def nearest(match: CameraInfoMatch, stamp_ns: int, tolerance_ns: int = 10, *, final: bool = False) -> int:
    found = match.nearest(stamp_ns, tolerance_ns, final=final)
    return messages.stamp_nanoseconds(found.header.stamp)


def test_exact() -> None:
    assert messages.stamp_nanoseconds(match(10, 20, 30).exact(20).header.stamp) == 20
    with pytest.raises(NotYetError, match=r"none with the stamp 40 ns, the last is of 30 ns") as caught:
        match(10, 20, 30).exact(40)
    assert caught.value.may_come
    with pytest.raises(NotYetError) as caught:
        match(10, 20, 30).exact(25)
    assert not caught.value.may_come
    with pytest.raises(NotYetError, match="none came at all"):
        match().exact(1)


def test_the_nearest_is_known_once_a_later_one_came() -> None:
    with pytest.raises(NotYetError) as caught:
        nearest(match(10, 20), 21)
    assert caught.value.may_come
    assert nearest(match(10, 20), 21, final=True) == 20
    assert nearest(match(10, 20, 30), 21) == 20
    assert nearest(match(10, 20, 30), 26) == 30
    with pytest.raises(NotYetError, match=r"none within 0\.000 s") as caught:
        nearest(match(0, 100), 50)
    assert not caught.value.may_come


def test_a_recording_that_begins_anew_and_a_long_one() -> None:
    looped = match(10 * SECOND_NS, 10 * SECOND_NS + 5, 10)
    with pytest.raises(NotYetError):
        looped.exact(10 * SECOND_NS)
    assert messages.stamp_nanoseconds(looped.exact(10).header.stamp) == 10
    long = match(*range(KEPT + 1))
    with pytest.raises(NotYetError):
        long.exact(0)
