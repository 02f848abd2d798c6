"""Counts and warnings of the node."""

from __future__ import annotations

import pytest

from scene_completion_ros.ros.health import counters
from scene_completion_ros.ros.health.counters import FrameCounters


class Logger:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)


def test_every_drop_is_counted_and_each_reason_warned_about_once_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = Logger()
    count = FrameCounters(logger)
    now_s = 100.0
    monkeypatch.setattr(counters.time, "monotonic", lambda: now_s)
    for _ in range(3):
        count.drop("bad image", "3 bytes missing")
    count.drop("no CameraInfo", "none yet")
    count.drop("newer image arrived")
    assert logger.lines == [
        "dropped (bad image, 1 so far): 3 bytes missing",
        "dropped (no CameraInfo, 1 so far): none yet",
    ]
    now_s += counters.WARNING_PERIOD_S
    count.drop("bad image", "4 bytes missing")
    assert logger.lines[-1] == "dropped (bad image, 4 so far): 4 bytes missing"
    count.warn("long", "x" * 20_000)  # what messages hold is quoted
    assert len(logger.lines[-1]) < 1100
    assert logger.lines[-1].endswith("x … (20000 characters)")
    count.count_received()
    count.count_processed()
    counts = "received 1 images, processed 1, dropped 6 (4 bad image, 1 newer image arrived, 1 no CameraInfo)"
    assert count.summary() == counts
    warned = len(logger.lines)
    count.count_unwanted()
    assert count.summary() == f"{counts}, nobody subscribed to 1"
    assert len(logger.lines) == warned
