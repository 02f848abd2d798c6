from __future__ import annotations

from scene_completion_ros.diagnosis.findings import Check, Finding, Status
from scene_completion_ros.errors import BundleError


def test_a_check_that_raises_has_failed() -> None:
    def divide() -> Finding:
        return Finding(Status.OK, str(1 / 0))

    def load() -> Finding:
        raise BundleError("is empty", where="student.json", cure="Fill it")

    assert Check("x", divide, "Count").run() == Finding(Status.FAILED, "ZeroDivisionError: division by zero", "Count")
    assert Check("x", load, "Count").run() == Finding(Status.FAILED, "student.json: is empty", "Fill it")
