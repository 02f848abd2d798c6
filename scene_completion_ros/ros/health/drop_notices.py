"""Says of every image that the node drops which one it was and why, to whoever subscribed."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from std_msgs.msg import String

from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.messages import stamp_nanoseconds
from scene_completion_ros.ros.outputs.publishing import Create, subscribed
from scene_completion_ros.ros.topics import DROPPED

NOTICE_DEPTH = 100  # a burst of dropped images, for slow readers


def announce_drops(create: Create, counters: FrameCounters, resources: ExitStack) -> None:
    """Publish a notice of every image that is dropped from now on, until `resources` is closed.

    A reader that waits for the result of an image learns from it that none will come.

    Args:
        create: Creates the publisher.
        counters: What drops are counted by.
        resources: Closing it ends the notices.
    """
    publisher = create(String, DROPPED, NOTICE_DEPTH)

    def announce(reason: str, header: Any) -> None:
        if subscribed(publisher):
            publisher.publish(String(data=drop_notice(reason, header)))

    def stop() -> None:
        counters.on_dropped_image = None

    counters.on_dropped_image = announce
    resources.callback(stop)


def drop_notice(reason: str, header: Any) -> str:
    """The notice as JSON: `{"stamp_ns": 1700000000000000000, "frame_id": "camera", "reason": "bad image"}`."""
    return json.dumps({"stamp_ns": stamp_nanoseconds(header.stamp), "frame_id": header.frame_id, "reason": reason})


def read_drop_notice(text: str) -> tuple[int, str, str]:
    """Stamp in nanoseconds, frame and reason of a notice.

    Raises:
        ValueError: It is no notice.
    """
    notice = json.loads(text)
    try:
        return int(notice["stamp_ns"]), str(notice["frame_id"]), str(notice["reason"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"no notice of a dropped image: {text[:80]!r}") from error
