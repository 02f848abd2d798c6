"""The recorded time, published on /clock for nodes with `use_sim_time`."""

from __future__ import annotations

from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from scene_completion_ros.ros.messages import stamp_message

MOST_TICKS = 1000  # made up for at once; more than a pause of a recording deserves
CLOCK_QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


class RecordedClock:
    """Publishes the recorded time at a rate of ticks.

    Args:
        node: The rclpy node to publish with.
        topic: Usually /clock.
        hz: Ticks a recorded second.
    """

    def __init__(self, node: Any, topic: str, hz: float) -> None:
        self._publisher = node.create_publisher(Clock, topic, CLOCK_QOS)
        self.period_ns = max(round(1e9 / hz), 1)
        self._last_ns: int | None = None

    def restart(self) -> None:
        """The recording starts again: the next time may lie before the last one."""
        self._last_ns = None

    def step_to(self, now_ns: int) -> None:
        """Publish all ticks before a time (at most `MOST_TICKS`), and the time itself.

        For lock step, in which nothing else makes the time pass.
        """
        if self._last_ns is not None:
            first_ns = max(self._last_ns, now_ns - MOST_TICKS * self.period_ns) + self.period_ns
            for tick_ns in range(first_ns, now_ns, self.period_ns):
                self._publish(tick_ns)
        if now_ns != self._last_ns:
            self._publish(now_ns)

    def show(self, now_ns: int) -> None:
        """Publish the time if a tick has become due; ticks that were missed are not made up for."""
        if self._last_ns is None or now_ns - self._last_ns >= self.period_ns:
            self._publish(now_ns)

    def _publish(self, time_ns: int) -> None:
        self._publisher.publish(Clock(clock=stamp_message(time_ns)))
        self._last_ns = time_ns
