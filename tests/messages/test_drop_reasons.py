"""Reasons of drops, as counted, reported and documented."""

import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.messages.drop_reasons import (
    CLOCK_JUMP_NS,
    DropReason,
    StampOrder,
    drop_notice,
    read_drop_notice,
)


def test_notices_of_dropped_images() -> None:
    notice = drop_notice(DropReason.BAD_IMAGE, 3_000_000_004, "front")
    assert read_drop_notice(notice) == (3_000_000_004, "front", "bad image")
    other = '{"stamp_ns": 1, "frame_id": "", "reason": "of another version"}'
    assert read_drop_notice(other) == (1, "", "of another version")
    for text in ("", "[]", "{}", '{"stamp_ns": null, "frame_id": "", "reason": ""}', '{"stamp_ns": 1e999}'):
        with pytest.raises(SceneCompletionError):
            read_drop_notice(text)


def test_late_images_differ_from_restarted_recordings() -> None:
    order = StampOrder()
    second = CLOCK_JUMP_NS
    assert order.arrived(100 * second) == "in order"
    assert order.arrived(100 * second - 1) == "late"
    assert order.behind_ns == 1
    assert order.arrived(99 * second + 1) == "late"  # the late one before did not move the newest stamp
    assert order.arrived(99 * second) == "restarted"
    assert order.arrived(99 * second + 1) == "in order"
    assert order.behind_ns == 0
    assert {order.arrived(99 * second + 1) for _ in range(5)} == {"in order"}  # equal stamps, as of a driver with none
