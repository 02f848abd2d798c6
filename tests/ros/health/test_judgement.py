"""What is said of the model, the outputs and the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scene_completion_ros.ros.health.inference_record import TIMES_KEPT, InferenceRecord, Result
from scene_completion_ros.ros.health.judgement import (
    Drops,
    Level,
    inference_status,
    lifecycle_status,
    memory_status,
    outputs_status,
)
from scene_completion_ros.ros.health.process_facts import ProcessFacts, process_facts
from tests.ros.voxel_samples import some_voxels

NONE_DROPPED = Drops({}, {}, 10.0)


def test_states_that_were_chosen_are_in_order_and_failed_transitions_are_not() -> None:
    for state in ("unconfigured", "inactive", "active", "finalized"):
        assert lifecycle_status(state, "", enabled=True).level == Level.OK
    status = lifecycle_status("unconfigured", "parameter bundle: there is no folder /x", enabled=True)
    assert status.level == Level.ERROR
    assert "there is no folder /x" in status.message


def test_times_are_summed_up_over_the_last_images() -> None:
    record = InferenceRecord()
    assert record.times() == {}
    assert record.result_age_s(1.0) is None
    result = Result(some_voxels(3, 5), "front")
    for number in range(TIMES_KEPT + 50):
        record.completed(result, {"total": float(number), "latency": 2.0})
    total = record.times()["total"]
    assert (total.mean, total.largest) == (50 + (TIMES_KEPT - 1) / 2, TIMES_KEPT + 49)
    assert total.mean < total.p95 < total.largest
    assert record.result is result
    record.ready("openvino", ["wide"])
    status = inference_status(record, NONE_DROPPED, processed=150, unwanted=2)
    assert status.level == Level.OK
    assert status.message == "ready, latency 2.0 ms, total 99.5 ms"
    assert status.values["latency ms"] == "mean 2.00, p95 2.00, max 2.00"
    record.forget()
    assert record.times() == {} and record.result is None
    assert record.model().state == "ready"


def test_an_unusable_camera_and_internal_errors_are_errors() -> None:
    record = InferenceRecord()
    record.building()
    assert inference_status(record, NONE_DROPPED, processed=0, unwanted=0).level == Level.OK
    broken = Drops({"internal error": 1}, {"internal error": 1}, 10.0)
    status = inference_status(record, broken, processed=0, unwanted=0)
    assert status.level == Level.ERROR
    assert "1 internal error; see the log" in status.message
    record.failed("camera: sees nothing. Calibrate")
    status = inference_status(record, NONE_DROPPED, processed=0, unwanted=0)
    assert status.level == Level.ERROR
    assert "camera: sees nothing. Calibrate" in status.message


def test_each_camera_has_a_model_of_its_own() -> None:
    record = InferenceRecord()
    assert inference_status(record, NONE_DROPPED, processed=0, unwanted=0).message == "waiting for a calibration"
    record.ready("openvino", [], camera="left")
    record.building(camera="right")
    status = inference_status(record, NONE_DROPPED, processed=0, unwanted=0)
    assert status.message == "left ready, right building"
    assert status.values["engine left"] == "openvino"
    record.failed("camera: sees nothing. Calibrate", camera="right")
    status = inference_status(record, NONE_DROPPED, processed=0, unwanted=0)
    assert status.level == Level.ERROR
    assert status.message == "images of right cannot be completed: camera: sees nothing. Calibrate"


def test_outputs_tell_who_listens_and_what_was_warned_of() -> None:
    status = outputs_status({"/a": 0, "/b": 0}, {}, None)
    assert "nobody subscribed: images are not completed until" in status.message
    status = outputs_status({"/a": 2, "/b": 0}, {"~/markers": 3}, 0.5)
    assert status.message == "1 of 2 topics have subscribers"
    assert status.values["warnings: ~/markers"] == "3"
    assert status.values["subscribers of /a"] == "2"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_facts_of_this_process() -> None:
    before = process_facts()
    assert before.resident_mb is not None and before.peak_mb is not None
    assert 0 < before.resident_mb <= before.peak_mb
    assert before.own_mb is not None and before.shared_mb is not None
    assert 0 < before.own_mb <= before.own_mb + before.shared_mb < before.resident_mb  # pages of files are the rest
    descriptor = os.open("/", os.O_RDONLY)
    try:
        after = process_facts()
    finally:
        os.close(descriptor)
    assert before.open_files is not None and after.open_files == before.open_files + 1
    assert memory_status(before).level == Level.OK


def test_where_there_is_no_proc_nothing_is_said_of_it(tmp_path: Path) -> None:
    facts = process_facts(tmp_path)
    assert (facts.resident_mb, facts.threads, facts.open_files) == (None, None, None)
    assert memory_status(facts).message == "this system does not tell"


def test_running_out_of_open_files_is_warned_about() -> None:
    assert memory_status(ProcessFacts(open_files=90, open_files_limit=100)).level == Level.OK
    status = memory_status(ProcessFacts(open_files=91, open_files_limit=100))
    assert status.level == Level.WARN
    assert "ulimit -n" in status.message
