"""The bundle and the self-test of the student."""

from __future__ import annotations

from pathlib import Path

import pytest

from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
from scene_completion_ros.diagnosis import student
from scene_completion_ros.diagnosis.checks import checks
from scene_completion_ros.diagnosis.findings import Finding, Status
from scene_completion_ros.inference.json_object import CURE
from tests.commands.conftest import flat_road_head
from tests.inference.small_bundle import make_small_bundle


def finding_of(name: str, bundle: Path) -> Finding:
    (check,) = (check for check in checks(bundle, DEMO_DRIVE) if check.name == name)
    return check.run()


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    finding = finding_of("bundle", tmp_path / "nowhere")
    assert (finding.status, finding.cure) == (Status.FAILED, "Name the folder of a student bundle.")
    assert finding.found == f"{tmp_path / 'nowhere'}: no student.json in it"
    assert finding_of("self-test", tmp_path / "nowhere").status is Status.NOT_APPLICABLE


def test_a_manifest_that_nobody_can_read(tmp_path: Path) -> None:
    (tmp_path / "student.json").write_text("[" * 5000)
    finding = finding_of("bundle", tmp_path)
    assert finding.found == f"{tmp_path / 'student.json'}: is nested deeper than 64 levels"
    assert finding.cure == CURE


def test_a_damaged_bundle(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path)
    content = bytearray((tmp_path / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "head.safetensors").write_bytes(content)
    finding = finding_of("bundle", tmp_path)
    assert finding.status is Status.FAILED
    assert "sha256" in finding.found
    assert "again" in finding.cure
    bundle.save(tmp_path, b"no graph")
    assert finding_of("bundle", tmp_path).status is Status.WARNING  # as it stands it is sound, and not calibrated
    finding = finding_of("self-test", tmp_path)
    assert finding.status is Status.FAILED
    assert "encoder.onnx" in finding.found
    assert finding.cure == "Export the bundle again."


def test_a_student_that_finds_nothing_in_the_demo_drive(tmp_path: Path) -> None:
    make_small_bundle(tmp_path, threshold=1.0)
    finding = finding_of("self-test", tmp_path)
    assert finding.status is Status.WARNING
    assert "finds nothing" in finding.found


def test_the_self_test_judges_voxels_and_not_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_bundle(tmp_path, head=flat_road_head())
    for camera_hz, status in ((1e-6, Status.OK), (1e6, Status.WARNING)):
        monkeypatch.setattr(student, "CAMERA_HZ", camera_hz)
        finding = finding_of("self-test", tmp_path)
        assert finding.status is status
        assert finding.details["fewest_occupied"] > 1000
