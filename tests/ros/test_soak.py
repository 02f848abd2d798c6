"""Some seconds of what `python -m benchmarks.soak` does for half an hour, and what it takes for a fault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.soak import Sample, Soak

LARGEST_GROWTH_MB = 40.0  # memory pools still fill in the first minute
FLAT = Soak(
    minutes=1.0,
    rate_hz=30.0,
    warm_up_s=12.0,
    sent=1800,
    received=1800,
    completed=300,
    dropped={"newer image arrived": 1500},
    samples=tuple(
        Sample(
            seconds=float(second),
            resident_mb=500.0 + second % 2,
            own_mb=400.0,
            shared_mb=60.0 + second % 2,
            threads=20,
            open_files=30,
            results=5 * second,
        )
        for second in range(61)
    ),
)


def grown(name: str, step: float) -> Soak:
    """A soak in which something grows with every sample after the warm-up."""
    changed = [
        replace(sample, **{name: getattr(sample, name) + step * max(0.0, sample.seconds - FLAT.warm_up_s)})
        for sample in FLAT.samples
    ]
    return replace(FLAT, samples=tuple(changed))


def test_nothing_grows_and_every_image_is_accounted_for(
    bundle_folder: Path, grid_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    result = tmp_path / "soak.json"
    given = ["--minutes", "0.12", "--rate", "30", "--threads", "1", "--bundle", str(bundle_folder)]
    given += ["--grid", str(grid_file), "--largest-growth", str(LARGEST_GROWTH_MB), "--json", str(result)]
    status = soak.main(given)
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "nothing grew" in printed
    written = json.loads(result.read_text(encoding="utf-8"))
    assert written["faults"] == []
    assert written["grown"]["threads"] == 0
    assert written["grown"]["open_files"] == 0
    for sample in written["samples"]:
        assert (
            0 < sample["shared_mb"] < sample["own_mb"] < sample["own_mb"] + sample["shared_mb"] < sample["resident_mb"]
        )
    assert written["completed"] + sum(written["dropped"].values()) == written["received"] <= written["sent"]
    assert set(written["dropped"]) <= {"newer image arrived"}
    assert len(written["samples"]) > 8
    assert written["completed"] >= written["samples"][-1]["results"] > 2


def test_what_does_not_grow_is_no_fault() -> None:
    assert FLAT.faults() == []
    assert FLAT.grown("threads") == FLAT.grown("open_files") == 0
    assert abs(FLAT.grown("resident_mb")) <= 0.5
    before = tuple(replace(one, resident_mb=100.0) if one.seconds < 12 else one for one in FLAT.samples)
    assert replace(FLAT, samples=before).faults() == []  # the warm-up does not count


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (grown("resident_mb", 0.3), "memory grew by"),
        (grown("threads", 1), "threads more than at the beginning"),
        (grown("open_files", 1), "open files more than at the beginning"),
        (replace(FLAT, received=1810), "10 of 1810 images are not accounted for"),
        (replace(FLAT, received=0, completed=0, dropped={}), "no image was completed"),
    ],
)
def test_what_grows_is_a_fault(found: Soak, words: str) -> None:
    (fault,) = found.faults()
    assert words in fault


def test_growth_is_told_in_numbers() -> None:
    found = grown("resident_mb", 0.3)  # MB a second, for 48 s
    assert found.grown("resident_mb") == pytest.approx(0.3 * 43, abs=1.1)
    assert "own +0.0, shared +0.0" in found.text()
    assert "own +13.2, shared +0.0" in grown("own_mb", 0.3).text()
    assert found.slope_mb_an_hour() == pytest.approx(0.3 * 3600, rel=0.02)
    assert f"{found.slope_mb_an_hour():+.1f} MB an hour" in found.text()
