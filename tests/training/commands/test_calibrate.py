"""`scene-completion calibrate`: where the bundle goes, and what happened to it meanwhile."""

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, MANIFEST, StudentBundle
from scene_completion_training.evaluation import deployed
from tests.inference.small_bundle import make_small_bundle
from tests.training.evaluation.one_wall import make_street


@pytest.fixture
def student(tmp_path: Path) -> StudentBundle:
    student = make_small_bundle(tmp_path / "student")
    (tmp_path / "student" / "README.md").write_text("mine")
    make_street(assets=()).save(tmp_path / "drive")
    return student


@pytest.fixture
def calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, with a calibration that takes no time; `meanwhile` happens during it."""

    def run(*arguments: str, meanwhile: Callable[[], object] = lambda: None) -> int:
        def fitted(bundle: StudentBundle, *_: object, **__: object) -> StudentBundle:
            meanwhile()
            record = {"calibration": {"iou_there": 0.5}}
            return dataclasses.replace(bundle, threshold=0.25, provenance={**bundle.provenance, **record})

        monkeypatch.setattr(deployed, "calibrate_on_truth", fitted)
        monkeypatch.chdir(tmp_path)
        return main(["calibrate", *arguments, "--labelled", "drive"])

    return run


def test_it_goes_to_a_new_folder_or_in_the_place_of_the_one_that_was_named(
    student: StudentBundle, calibrate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate("student", "--output", "new") == 0
    assert StudentBundle.load("student").threshold == student.threshold
    assert StudentBundle.load("new").threshold == 0.25
    assert calibrate("student", "--output", "new") == 2
    assert "--output new: encoder.onnx, head.safetensors, student.json exist already" in capsys.readouterr().err
    assert calibrate("student") == 0
    assert StudentBundle.load("student").threshold == 0.25
    assert Path("student", "README.md").read_text() == "mine"
    for shipped in ("kitti_student", "auto"):
        assert calibrate(shipped) == 2
        said = f"student {shipped}: comes with the package, where it stays as it is. Name a folder for the new one with"
        assert f"{said} --output" in capsys.readouterr().err
    assert calibrate("kitti_studnet") == 2
    assert "(kitti_student, room, street). Did you mean kitti_student?" in capsys.readouterr().err
    assert StudentBundle.load(DEFAULT_BUNDLE).threshold != 0.25


@pytest.mark.parametrize("output", [(), ("--output", "new")])
@pytest.mark.parametrize("edited", ["threshold", "encoder"])
def test_what_was_changed_meanwhile_is_not_undone(
    edited: str,
    output: tuple[str, ...],
    student: StudentBundle,
    calibrate: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def edit() -> None:
        if edited == "threshold":  # no hash of a file in it changes
            manifest = tmp_path / "student" / MANIFEST
            manifest.write_text(manifest.read_text().replace(f'"threshold": {student.threshold}', '"threshold": 0.75'))
        else:
            make_small_bundle(tmp_path / "student", seed=9)

    assert calibrate("student", *output, meanwhile=edit) == 2
    assert "calibrate: student/student.json: was replaced meanwhile. Start again." in capsys.readouterr().err
    now = StudentBundle.load("student")
    assert now.threshold == 0.75 if edited == "threshold" else now.sha256 != student.sha256
    assert now.threshold != 0.25 and not Path("new").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_kill_leaves_the_former_one(
    student: StudentBundle, calibrate: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the new one is written, before it takes its place."""
    with monkeypatch.context() as patch:
        calls = iter([None])
        kill = lambda _: next(calls, 0) is None or os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        patch.setattr(StudentBundle, "unchanged_manifest", kill)
        if not (child := os.fork()):
            calibrate("student")
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert StudentBundle.load(student.encoder_path.parent).threshold == student.threshold
    assert calibrate("student") == 0
    assert StudentBundle.load("student").threshold == 0.25
