"""When a recording is asked for, and how often."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.phrase_query import Words
from scene_completion_ros.messages.drop_reasons import RecordReason, record_reasons
from scene_completion_ros.ros.frame import Epoch, Scene
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.join.record_triggers import RecordTriggers
from scene_completion_ros.ros.messages import record_trigger_message, stamp_nanoseconds
from scene_completion_ros.ros.parameters.schema import NodeParameters
from tests.mapping.small_voxels import FREE, SURFACE, voxels_of

SECOND_NS = 1_000_000_000
STILL = RigidTransform.identity()
WALL = np.full((12, 9, 9), FREE, np.uint8)
WALL[5, 4, 4] = SURFACE
NOTHING = np.full((12, 9, 9), FREE, np.uint8)


class Asked:
    """A trigger under test, and what it asked for."""

    def __init__(self, **parameters: Any) -> None:
        self.log: list[str] = []
        self.requests: list[tuple[list[str], float, str]] = []
        logger = SimpleNamespace(warning=self.log.append)
        self.triggers = RecordTriggers(self._ask, FrameCounters(logger))
        self.parameters = NodeParameters(**parameters)

    def _ask(self, reasons: Sequence[RecordReason], stamp_ns: int, frame_id: str) -> None:
        self.requests.append(([reason.name for reason in reasons], stamp_ns / SECOND_NS, frame_id))

    def look(
        self, second: float, state: np.ndarray = WALL, odometry: Any = STILL, epoch: Any = (0, 0), now: Any = None
    ) -> None:
        placement: Any = SimpleNamespace(frame_id="camera", odometry_from_grid=odometry)
        frame: Any = SimpleNamespace(placement=placement, stamp_ns=round(second * SECOND_NS))
        scene = Scene((frame,), self.parameters, Words(), Epoch(*epoch), voxels_of_moment=now)
        scene.voxels = voxels_of(state, stamp_ns=frame.stamp_ns)  # probabilities of 0.75
        self.triggers.look(scene)

    @property
    def seconds(self) -> list[float]:
        return [second for _, second, _ in self.requests]


def test_an_unsure_student_asks_no_more_often_than_it_may() -> None:
    asked = Asked(record_unsure=0.2)
    for second in range(30):
        asked.look(second)
    assert asked.requests == [(["unsure"], second, "camera") for second in (0.0, 10.0, 20.0)]
    quiet = Asked(record_unsure=0.3)
    quiet.look(0.0)
    assert quiet.requests == []


def test_an_image_that_sees_through_what_was_there_a_second_ago_asks() -> None:
    asked = Asked(record_wrong=0.5)
    asked.look(0.0, WALL)
    asked.look(0.5, NOTHING)  # too soon to tell
    assert asked.requests == []
    asked.look(1.0, NOTHING)
    asked.look(1.5, WALL)
    asked.look(2.0, NOTHING)  # compared with that of second 1
    assert asked.requests == [(["wrong"], 1.0, "camera")]
    asked.look(3.5, WALL)
    asked.look(8.0, NOTHING)  # too late
    assert asked.seconds == [1.0]


def test_a_request_is_read_as_it_was_meant() -> None:
    reason = RecordReason("wrong", "the image sees through 52 % of it", 0.52, 0.25)
    message = record_trigger_message([reason, RecordReason("unsure", score=0.4)], 7 * SECOND_NS + 5, "camera")
    assert stamp_nanoseconds(message.header.stamp) == 7 * SECOND_NS + 5
    assert message.header.frame_id == "camera"
    assert record_reasons(message) == [reason, RecordReason("unsure", score=0.4)]
