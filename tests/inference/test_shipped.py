"""Which of the shipped students is taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference import shipped
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE
from scene_completion_ros.inference.shipped import LARGE, choose_student, open_student, shipped_students
from tests.inference.small_bundle import make_small_bundle


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_small_bundle(folder / LARGE, name=LARGE)
    (folder / "no_student").mkdir()
    return folder


def ticking(step_s: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += step_s


def test_students_are_named_by_their_folders(models: Path, tmp_path: Path) -> None:
    assert shipped_students(models) == (LARGE,)
    assert DEFAULT_BUNDLE.name in shipped_students()
    assert open_student(LARGE, models=models).name == LARGE
    assert open_student(None).folder == DEFAULT_BUNDLE
    assert open_student(DEFAULT_BUNDLE.name).folder == DEFAULT_BUNDLE
    assert open_student(make_small_bundle(tmp_path).folder).name == "small"
    with pytest.raises(BundleError):
        open_student("no_student", models=models)


@pytest.fixture
def _little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "LEAST_WORK_S", 0.0)


@pytest.mark.usefixtures("_little_work")
@pytest.mark.parametrize(
    ("encoder_s", "rate_hz", "large"), [(0.05, 0.0, True), (0.07, 0.0, False), (0.07, 5.0, True), (0.05, 20.0, False)]
)
def test_the_large_one_is_taken_where_it_keeps_the_rate(
    models: Path, encoder_s: float, rate_hz: float, large: bool
) -> None:
    """Six tenths of a period are allowed: 60 ms at ten images a second."""
    times = ticking(encoder_s)
    found, why = choose_student("auto", threads=1, rate_hz=rate_hz, models=models, clock=lambda: next(times))
    assert (found.name == LARGE) == large
    assert found.name == LARGE or found.folder == DEFAULT_BUNDLE
    assert f"takes {1e3 * encoder_s:.0f} ms here, and {rate_hz or 10.0:g} images a second leave it" in why


@pytest.mark.parametrize(("threads", "rate_hz", "tried"), [(4, 10.0, False), (8, 10.0, True), (1, 1.0, True)])
def test_nothing_is_tried_where_it_cannot_be_fast_enough(
    models: Path, threads: int, rate_hz: float, tried: bool
) -> None:
    """By hand: 0.45 s of one thread an image; 60 ms of four threads are 0.24 s."""
    times = ticking(0.01)
    found, why = choose_student("auto", threads=threads, rate_hz=rate_hz, models=models, clock=lambda: next(times))
    assert (found.name == LARGE) == tried == (next(times) > 0.0)
    assert (
        tried or why == f"{LARGE} needs more threads for {rate_hz:g} images a second, or a GPU with an encoder for it"
    )


def test_a_damaged_large_one_keeps_nothing_from_starting(tmp_path: Path) -> None:
    make_small_bundle(tmp_path / LARGE, name=LARGE)
    (tmp_path / LARGE / "encoder.onnx").write_bytes(b"")
    found, why = choose_student("auto", threads=1, models=tmp_path)
    assert found.folder == DEFAULT_BUNDLE
    assert f"{LARGE} cannot be used" in why
