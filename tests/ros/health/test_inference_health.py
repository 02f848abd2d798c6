"""What is said of the model and of its times."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.ros.health.inference_health import TIMES_KEPT, InferenceRecord, inference_status
from scene_completion_ros.ros.health.judgement import Drops, Level
from scene_completion_ros.ros.student import ModelRecord

NONE_DROPPED = Drops({}, {}, 10.0)


def make_record() -> InferenceRecord:
    student: Any = SimpleNamespace(record=ModelRecord(), title="small (folder)")
    return InferenceRecord(student)


def test_times_are_summed_up_over_the_last_images() -> None:
    record = make_record()
    models = record.student.record
    assert record.times() == {}
    assert record.result_age_s(1.0) is None
    for number in range(TIMES_KEPT + 50):
        record.completed({"total": float(number), "latency": 2.0})
    total = record.times()["total"]
    assert (total.mean, total.largest) == (50 + (TIMES_KEPT - 1) / 2, TIMES_KEPT + 49)
    assert total.mean < total.p95 < total.largest
    models.ready("openvino", ["wide"])
    status = inference_status(record, NONE_DROPPED, processed=150, unwanted=2)
    assert status.level == Level.OK
    assert status.message == "ready, latency 2.0 ms, total 99.5 ms"
    assert status.values["latency ms"] == "mean 2.00, p95 2.00, max 2.00"
    record.forget()
    assert record.times() == {} and record.result_age_s(1.0) is None
    assert models.model().state == "ready"


def test_an_unusable_camera_and_internal_errors_are_errors() -> None:
    record = make_record()
    models = record.student.record
    models.building()
    assert inference_status(record, NONE_DROPPED, processed=0, unwanted=0).level == Level.OK
    broken = Drops({DropReason.INTERNAL_ERROR: 1}, {DropReason.INTERNAL_ERROR: 1}, 10.0)
    status = inference_status(record, broken, processed=0, unwanted=0)
    assert status.level == Level.ERROR
    assert "1 internal error (an unforeseen error; please report it); see the log" in status.message
    models.failed("camera: sees nothing. Calibrate")
    status = inference_status(record, NONE_DROPPED, processed=0, unwanted=0)
    assert status.level == Level.ERROR
    assert "camera: sees nothing. Calibrate" in status.message


def test_each_camera_has_a_model_of_its_own() -> None:
    record = make_record()
    models = record.student.record
    assert inference_status(record, NONE_DROPPED, processed=0, unwanted=0).message == "waiting for a calibration"
    models.ready("openvino", [], camera="left")
    models.building(camera="right")
    status = inference_status(record, NONE_DROPPED, processed=0, unwanted=0)
    assert status.message == "left ready, right building"
    assert status.values["engine left"] == "openvino"
    models.failed("camera: sees nothing. Calibrate", camera="right")
    status = inference_status(record, NONE_DROPPED, processed=0, unwanted=0)
    assert status.level == Level.ERROR
    assert status.message == "images of right cannot be completed: camera: sees nothing. Calibrate"
