"""A whole improvement of a tiny student with tiny recordings, and everything that refuses it."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scene_completion_ros.errors import ConfigurationError, ImprovementError
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_training.data import motion_stereo
from scene_completion_training.export import volume_reading
from scene_completion_training.extraction.bag import Job, extract_bags, lost_report
from scene_completion_training.extraction.reports import BagReport
from scene_completion_training.extraction.settings import ExtractionSettings
from scene_completion_training.improvement import pipeline
from scene_completion_training.improvement.pipeline import CARD, Improvement, improve
from scene_completion_training.improvement.steps import STATE
from scene_completion_training.street_world.camera_rig import LEFT
from scene_completion_training.workers import Workers
from tests.inference.small_bundle import make_small_bundle
from tests.training.improvement.conftest import LOWER_M, make_bag
from tests.training.synthetic_scene import CAMERA_HEIGHT

QUICK = (
    "render.patches=1",
    "render.samples=8",
    "pretrained=false",
    "data.views.occupancy_points=256",
    "data.fusion.free_samples=20000",
    "data.fusion.views=3",
)


def asked(bags: list[Path], current: StudentBundle, folder: Path, **changes: Any) -> Improvement:
    assert current.folder is not None
    values: dict[str, Any] = {
        "bags": tuple(bags),
        "current": current.folder,
        "output": folder / "new",
        "work": folder / "work",
        "extraction": ExtractionSettings(),
        "steps": 2,
        "overrides": QUICK,
        "calibrate_every": 4,
        "threads": 1,
        "margin": 0.0,
        "tolerance": 1.0,
    }
    return Improvement(**{**values, **changes})


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module", autouse=True)
def one_mixture() -> Iterator[None]:
    """Each share of the weights is exported and scored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "SHARES", (1.0,))
        yield


@pytest.fixture(scope="module")
def improved(bags: list[Path], current: StudentBundle, tmp_path_factory: pytest.TempPathFactory) -> Improvement:
    """An improvement that was done and accepted."""
    done = asked(bags, current, tmp_path_factory.mktemp("improved"))
    assert current.folder is not None
    before = content(current.folder)
    outcome = improve(done)
    assert outcome.reasons == ()
    assert content(current.folder) == before
    return done


def again(improved: Improvement, folder: Path, forget: str = "", **changes: Any) -> Improvement:
    """The same work in a folder of its own, without the result of a step."""
    shutil.copytree(improved.work, folder / "work")
    state = json.loads((folder / "work" / STATE).read_text())
    state.pop(forget, None)
    (folder / "work" / STATE).write_text(json.dumps(state))
    return dataclasses.replace(improved, work=folder / "work", output=folder / "new", **changes)


def test_a_student_that_hardly_learned_becomes_better(improved: Improvement) -> None:
    new, old = StudentBundle.load(improved.output), StudentBundle.load(improved.current)
    assert new.name == "new"
    assert new.provenance["improved_from"]["sha256"] == dict(old.sha256)
    assert "stereo" in new.provenance["calibration"]["fitted_on"]
    judged = json.loads((improved.work / STATE).read_text())["judging"]["result"]
    gained = next(one for one in judged["drives"]["held-out drive"]["comparisons"] if one["region"] == "all")
    assert gained["measure"] == "average_precision"
    assert gained["low"] > 0.0
    card = (improved.work / CARD).read_text()
    assert "The new student is accepted." in card
    assert card.count("data:image/jpeg;base64,") == 15
    assert "http" not in card
    assert "whether anything was forgotten was not looked at" in card
    for bag in improved.bags:
        assert f"{bag.parent.name}/{bag.name}" in card


def test_a_finished_improvement_is_not_done_again(
    improved: Improvement, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "train", lambda *_, **__: pytest.fail("it trained again"))
    assert improve(improved).reasons == ()
    assert capsys.readouterr().err.count("done before") == 10


def test_a_bag_of_a_dead_worker_counts(improved: Improvement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends there, and the next one extracts that bag."""
    shutil.copytree(improved.work, tmp_path / "work")
    (tmp_path / "work" / STATE).write_text("{}")
    asked_again = dataclasses.replace(improved, work=tmp_path / "work", output=tmp_path / "new")
    lost = improved.bags[1]
    monkeypatch.setattr(pipeline, "extract_bags", partial(one_is_lost, lost))
    with pytest.raises(ImprovementError, match=rf"{lost.name}: its worker died.*start the same command again"):
        improve(asked_again)
    assert (asked_again.work / STATE).read_text() == "{}"
    assert not asked_again.output.exists()


def one_is_lost(lost: Path, jobs: list[Job], workers: Workers) -> list[BagReport]:
    """As on a cluster that kills whoever takes one of the bags."""
    done = extract_bags([job for job in jobs if job.bag != lost.resolve()], workers)
    reports = {Path(report.bag): report for report in done}
    return [reports.get(job.bag) or lost_report(job, "its worker died: out of memory") for job in jobs]


def test_processes_of_the_trainer_itself_are_refused(improved: Improvement, tmp_path: Path) -> None:
    """It would start the whole command again."""
    with pytest.raises(ConfigurationError, match="trains in one process"):
        improve(again(improved, tmp_path, overrides=("devices=2",)))


def test_a_robot_with_one_camera(current: StudentBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own motion judges. The way is so short that nothing can be accepted, and the card says both."""
    monkeypatch.setattr(motion_stereo, "PIXELS", 30_000)
    bags = [
        make_bag(tmp_path / name, cameras=(LEFT,), aside=aside, frames=9, step=0.6)
        for name, aside in (("monday", 18.0), ("tuesday", 37.0), ("wednesday", 74.0))
    ]
    outcome = improve(
        asked(bags, current, tmp_path, extraction=ExtractionSettings(camera_height=CAMERA_HEIGHT - LOWER_M))
    )
    assert any("too few places" in reason for reason in outcome.reasons)
    state = json.loads((tmp_path / "work" / STATE).read_text())
    (scored,) = state["judging"]["result"]["drives"].values()
    assert scored["scores"]["new"]["all, 6.4 m"]["voxels"] > 1000
    assert "motion stereo" in state["exporting and calibrating"]["result"]["depth"]
    card = outcome.card.read_text()
    assert "<tr><td>wednesday/00</td><td>motion stereo</td></tr>" in card
    assert "The old student stays." in card


@pytest.mark.parametrize(
    ("step", "function"), [("extracting", "extract_bags"), ("training", "train"), ("deciding", "write_card")]
)
def test_a_disk_that_fills_at_a_step(
    improved: Improvement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, function: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stopped = again(improved, tmp_path, step)
    monkeypatch.setattr(pipeline, function, full)
    before = content(stopped.current)
    with pytest.raises(ImprovementError, match=f"the disk is full while {step}"):
        improve(stopped)
    assert not stopped.output.exists()
    assert not list(tmp_path.rglob("*.part"))
    assert content(stopped.current) == before


def test_a_drive_that_was_learned_before_is_refused(bags: list[Path], current: StudentBundle, tmp_path: Path) -> None:
    twice = asked([bags[0], shutil.copytree(bags[0], tmp_path / "sunday")], current, tmp_path)
    with pytest.raises(ImprovementError, match=r"drive sunday/00: 100 % .* a copy of monday/00"):
        improve(twice)


@pytest.mark.parametrize(
    ("drive", "said"),
    [({"step": 0.0}, "the rig moves less than"), ({"shade": 0.05}, "it is night"), ({"frames": 2}, "2 keyframes")],
)
def test_recordings_of_no_use(current: StudentBundle, tmp_path: Path, drive: dict[str, float], said: str) -> None:
    with pytest.raises(ImprovementError, match=said):
        improve(asked([make_bag(tmp_path / "bag", aside=0.0, **{"frames": 6, **drive})], current, tmp_path))
    assert not (tmp_path / "new").exists()


def test_what_would_fail_later_is_refused_at_once(bags: list[Path], current: StudentBundle, tmp_path: Path) -> None:
    here = asked(bags, current, tmp_path)
    with pytest.raises(ImprovementError, match="is learned from as well"):
        improve(dataclasses.replace(here, held_out=(bags[0],)))
    with pytest.raises(ImprovementError, match="no student is overwritten"):
        improve(dataclasses.replace(here, output=here.current))
    with pytest.raises(ImprovementError, match="is not there"):
        improve(dataclasses.replace(here, bags=(tmp_path / "nowhere",)))
    without = make_small_bundle(tmp_path / "without_weights")
    assert without.folder is not None
    with pytest.raises(ImprovementError, match=f"has no {WEIGHTS}"):
        improve(dataclasses.replace(here, current=without.folder))
    head = dataclasses.replace(current.head, volume=volume_reading(current.grid))
    looking = dataclasses.replace(current, head=head)
    looking = looking.save(tmp_path / "looking", current.read_encoder(), current.load_weights())
    assert looking.folder is not None
    with pytest.raises(ImprovementError, match="is not told how its camera stands"):
        improve(dataclasses.replace(here, current=looking.folder))
    with pytest.raises(ConfigurationError):
        improve(dataclasses.replace(here, overrides=("nonsense=1",)))
    assert not here.output.exists()
