"""When a recording is asked for: what is scored, how often, and what is not computed at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.record_reasons import RecordReason, record_reasons
from scene_completion_ros.ros.frame import Epoch, NotYetError, Scene
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.join import record_triggers
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
        selection: Any = None
        scene = Scene((frame,), self.parameters, selection, Epoch(*epoch), voxels_of_moment=now)
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


def test_where_the_robot_is_comes_from_odometry() -> None:
    asked = Asked(record_wrong=0.5)
    ahead = np.full_like(WALL, FREE)
    ahead[3, 4, 4] = SURFACE
    asked.look(0.0, WALL, RigidTransform(np.eye(3), np.array([10.0, 0.0, 0.0])))
    asked.look(1.0, ahead, RigidTransform(np.eye(3), np.array([12.0, 0.0, 0.0])))
    assert asked.requests == []
    asked.look(2.0, ahead, RigidTransform(np.eye(3), np.array([17.0, 0.0, 0.0])))
    assert asked.requests == []  # out of the grid: nothing is known
    asked.look(3.0, WALL, RigidTransform(np.eye(3), np.array([13.0, 0.0, 0.0])))
    assert asked.seconds == [3.0]


def test_images_whose_place_nobody_knows_are_not_compared() -> None:
    asked = Asked(record_wrong=0.5)
    asked.look(0.0, WALL)
    asked.look(1.0, NOTHING, NotYetError("no odometry", may_come=False))
    asked.look(1.1, NOTHING, None)
    assert asked.requests == []
    assert "compares no image with an earlier one: no odometry" in asked.log[0]


def test_another_epoch_has_nothing_to_be_compared_with() -> None:
    asked = Asked(record_wrong=0.5, record_unsure=0.2)
    asked.look(10.0, WALL)
    asked.look(11.0, NOTHING, epoch=(1, 0))
    asked.look(0.0, WALL, epoch=(1, 1))  # time began anew: neither is the last request remembered
    assert [names for names, *_ in asked.requests] == [["unsure"], ["unsure"]]


def test_voxels_of_the_moment_are_scored_not_those_joined_with_memory() -> None:
    asked = Asked(record_unsure=0.2)
    sure = voxels_of(WALL)
    asked.look(0.0, now=replace(sure, probability=np.ones(len(sure), np.float32)))
    assert asked.requests == []


def test_what_is_off_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []
    for name in ("unsure_share", "wrong_share"):
        monkeypatch.setattr(record_triggers, name, lambda *_, name=name: computed.append(name) or 0.0)
    for parameters, expected in (
        ({}, []),
        ({"record_unsure": 0.5}, ["unsure_share"] * 3),
        ({"record_wrong": 0.5}, ["wrong_share"] * 2),
    ):
        computed.clear()
        asked = Asked(**parameters)
        for second in (0.0, 1.0, 2.0):
            asked.look(second)
        assert computed == expected
    computed.clear()
    asked = Asked(record_unsure=0.5, record_wrong=0.5)
    monkeypatch.setattr(record_triggers, "unsure_share", lambda *_: computed.append("unsure_share") or 0.9)
    for tenth in range(30):
        asked.look(tenth / 10)
    assert computed == ["unsure_share"]  # after a request nothing is, until the next one may come


def test_a_request_is_read_as_it_was_meant() -> None:
    reason = RecordReason("wrong", "the image sees through 52 % of it", 0.52, 0.25)
    message = record_trigger_message([reason, RecordReason("unsure", score=0.4)], 7 * SECOND_NS + 5, "camera")
    assert stamp_nanoseconds(message.header.stamp) == 7 * SECOND_NS + 5
    assert message.header.frame_id == "camera"
    assert record_reasons(message) == [reason, RecordReason("unsure", score=0.4)]
