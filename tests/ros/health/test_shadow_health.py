"""What is said of the student behind the deployed one."""

from __future__ import annotations

import time

import pytest

from scene_completion_ros.evaluation.label_free import Comparison
from scene_completion_ros.evaluation.student_comparison import ComparisonReport
from scene_completion_ros.ros.health.judgement import Level, Status
from scene_completion_ros.ros.health.shadow_health import ShadowRecord, shadow_status

FIRST, SECOND = "street (/models/a)", "street (/models/b)"


def gained(low: float, high: float) -> ComparisonReport:
    found = Comparison("iou", "all", 51.2, 0.4, 0.5, 0.1, low, high, 12)
    return ComparisonReport(40, 0.8, 0.6, 30, 9000, (found,))


def said(record: ShadowRecord, deployed: str = FIRST, every: int = 1) -> Status:
    return shadow_status(record.report, deployed, time.perf_counter(), 10.0, every=every)


@pytest.fixture
def record() -> ShadowRecord:
    record = ShadowRecord()
    record.began(FIRST, SECOND)
    return record


def test_roles_change_with_the_deployed_student_and_the_better_one_stays(record: ShadowRecord) -> None:
    record.compared(gained(0.05, 0.12))
    status = said(record)
    assert status.level == Level.OK
    assert "agree on 80 % of occupied voxels; the shadow is better, after 30 images" in status.message
    assert "gain of the shadow: iou +0.050 to +0.120" in status.message
    assert (status.values["deployed"], status.values["shadow"]) == (FIRST, SECOND)
    assert (status.values["iou of the deployed"], status.values["iou of the shadow"]) == ("0.4000", "0.5000")
    status = said(record, SECOND)
    assert "the deployed student is better" in status.message
    assert "iou -0.120 to -0.050" in status.message
    assert (status.values["deployed"], status.values["shadow"]) == (SECOND, FIRST)
    assert (status.values["iou of the deployed"], status.values["iou of the shadow"]) == ("0.5000", "0.4000")
    record.compared(gained(-0.05, 0.12))
    assert "neither is better for sure" in said(record).message


def test_why_nothing_is_known_yet(record: ShadowRecord) -> None:
    assert "no second student (parameter shadow.bundle)" in said(ShadowRecord()).message
    assert "waiting for images that both students complete" in said(record).message
    record.compared(ComparisonReport(4, 0.8, 0.6))
    assert "the robot has to drive on" in said(record).message
    record.compared(ComparisonReport(4, 0.8, 0.02, judged=3))
    assert "they see the same in 2 % of the image only" in said(record).message
    record.without_pose("nothing says where odom is")
    assert "no image has a pose (nothing says where odom is)" in said(record).message
    assert "off" in said(record, every=0).message


def test_what_it_costs_and_what_it_skips(record: ShadowRecord) -> None:
    for milliseconds in (100.0, 200.0):
        record.completed(milliseconds)
    assert said(record).values["ms an image"] == "110.0"
    record.skipped("a newer image waited already")
    assert said(record).level == Level.OK
    record.skipped("a newer image waited already")
    record.skipped("a newer image waited already")
    status = said(record)
    assert status.level == Level.WARN
    assert "skipped 3 of 5 images, the last because a newer image waited already. Set largest_rate" in status.message


def test_failures_and_a_student_that_cannot_be_had_are_warnings(record: ShadowRecord) -> None:
    assert [record.failed("no memory"), record.failed("no memory"), record.failed("broken")] == [True, False, True]
    status = said(record)
    assert status.level == Level.WARN
    assert "failed at 3 images: broken. The deployed student goes on" in status.message
    assert shadow_status(record.report, FIRST, time.perf_counter() + 11.0, 10.0, every=1).level == Level.OK
    record.refused("there is no folder /b")
    status = said(record)
    assert status.level == Level.WARN
    assert status.message == "there is no second student: there is no folder /b"
    assert status.values == {"deployed": FIRST}
