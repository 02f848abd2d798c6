"""The bundle and the self-test of the student."""

from pathlib import Path

from scene_completion_ros.diagnosis.check import Status
from tests.diagnosis.needed import finding_of
from tests.inference.small_bundle import make_small_bundle


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    finding = finding_of("bundle", tmp_path / "nowhere")
    assert (finding.status, finding.cure) == (Status.FAILED, "Name the folder of a student bundle.")
    assert finding.found == f"{tmp_path / 'nowhere'}: no student.json in it"
    assert finding_of("self-test", tmp_path / "nowhere").status is Status.NOT_APPLICABLE


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
