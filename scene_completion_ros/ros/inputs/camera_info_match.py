"""Which CameraInfo belongs to an image, where it is not simply the latest one."""

from __future__ import annotations

from collections import deque
from typing import Any

from scene_completion_ros.messages.stamp_order import CLOCK_JUMP_NS
from scene_completion_ros.ros.inputs.waiting_room import NotYetError
from scene_completion_ros.ros.messages import stamp_nanoseconds

KEPT = 200  # more than three seconds at 60 Hz


class CameraInfoMatch:
    """The last CameraInfo messages, to be found by the stamps of images."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._kept: deque[tuple[int, Any]] = deque(maxlen=KEPT)

    def add(self, message: Any) -> None:
        """Keep a message; one more than a second before the last belongs to a recording started again."""
        stamp_ns = stamp_nanoseconds(message.header.stamp)
        if self._kept and stamp_ns < self._kept[-1][0] - CLOCK_JUMP_NS:
            self._kept.clear()
        self._kept.append((stamp_ns, message))

    def exact(self, stamp_ns: int) -> Any:
        """The message of a stamp.

        Raises:
            NotYetError: There is none; it may come, unless a later one has.
        """
        for stamp, message in reversed(self._kept):
            if stamp == stamp_ns:
                return message
        raise self._missing(f"none with the stamp {stamp_ns} ns", may_come=self._before(stamp_ns))

    def nearest(self, stamp_ns: int, tolerance_ns: int, *, final: bool) -> Any:
        """The message nearest to a stamp.

        Args:
            tolerance_ns: How far it may be from that.
            final: Whether to take what is there, even if a nearer one may still come.

        Raises:
            NotYetError: There is none that near, or a nearer one may come.
        """
        may_come = self._before(stamp_ns)
        if may_come and not final:
            raise self._missing(f"none after {stamp_ns} ns yet", may_come=True)
        near = [(abs(stamp - stamp_ns), number) for number, (stamp, _) in enumerate(self._kept)]
        if not near or min(near)[0] > tolerance_ns:
            raise self._missing(f"none within {tolerance_ns / 1e9:.3f} s of {stamp_ns} ns", may_come=may_come)
        return self._kept[min(near)[1]][1]

    def _before(self, stamp_ns: int) -> bool:
        """Whether all that came are of before a stamp."""
        return not self._kept or self._kept[-1][0] < stamp_ns

    def _missing(self, what: str, *, may_come: bool) -> NotYetError:
        newest = f"the last is of {self._kept[-1][0]} ns" if self._kept else "none came at all"
        return NotYetError(
            f"of {len(self._kept)} CameraInfo messages {what}, {newest}",
            where=self._topic,
            cure="If the camera publishes its CameraInfo only once, set camera_info_sync: latest",
            may_come=may_come,
        )
