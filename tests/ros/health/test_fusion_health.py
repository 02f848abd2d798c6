"""What is said of the map of earlier images."""

from __future__ import annotations

import time

from scene_completion_ros.ros.health.fusion_health import FusionRecord, fusion_status
from scene_completion_ros.ros.health.judgement import Level, Status

RECENT_S = 10.0
MISSING = "transform odom -> base_link: no transform at 5 ns yet. Poses are not extrapolated"


def told(record: FusionRecord, later_s: float = 0.0, *, wanted: bool = True) -> Status:
    return fusion_status(record.report, time.perf_counter() + later_s, RECENT_S, wanted=wanted)


def join(record: FusionRecord, age_s: float) -> None:
    record.joined(map_voxels=7_060_925, map_mb=155.3, age_s=age_s, updated=1000, entered=20)


def test_a_map_that_grows_is_in_order_and_has_numbers() -> None:
    record = FusionRecord()
    assert told(record).level == Level.OK
    assert told(record).message == "waiting for the first image"
    join(record, 0.0)
    join(record, 0.4)
    status = told(record)
    assert (status.level, status.message) == (Level.OK, "map of 0.4 s, 155 MB")
    assert status.values["images joined"] == "2"
    assert status.values["map voxels"] == "7060925"
    assert status.values["voxels updated by the last image"] == "1000"
    assert status.values["voxels that came into the map before it"] == "20"
    assert status.values["times started anew"] == "0"
    assert "last started anew" not in status.values


def test_an_image_that_had_to_do_without_is_a_warning_for_a_while() -> None:
    record = FusionRecord()
    join(record, 0.0)
    record.alone(MISSING)
    status = told(record, 2.0)
    assert status.level == Level.WARN
    assert status.message.startswith(
        "the node published the voxels of 1 images without those of earlier ones, the last 2.0 s"
    )
    assert MISSING in status.message
    join(record, 0.2)
    assert told(record, 2.0).level == Level.WARN  # they come and go
    later = told(record, RECENT_S + 1.0)
    assert later.level == Level.OK
    assert later.values["images published alone"] == "1"
    assert MISSING in later.values["last published alone"]


def test_why_it_was_started_anew_is_told_and_what_is_off_says_so() -> None:
    record = FusionRecord()
    join(record, 3.0)
    record.started("the clock went back by 3.000 s")
    status = told(record, 1.0)
    assert status.values["times started anew"] == "1"
    assert status.values["last started anew"] == "1.0 s ago: the clock went back by 3.000 s"
    record.released()
    off = told(record, wanted=False)
    assert (off.level, off.message) == (Level.OK, "off (parameter fusion.enabled)")
    assert (off.values["map voxels"], off.values["map MB"], off.values["images joined"]) == ("0", "0.0", "1")
