"""Some seconds of what `python -m benchmarks.soak` does for two hours, and what it takes for a fault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from benchmarks import soak
from benchmarks.soak import Event, Record, Sample, memory_mb, slope
from scene_completion_ros.diagnosis.ros_environment import HIGHEST_SAFE_DOMAIN
from tests.ros_domain import DOMAINS, next_domain

FAULTS = (
    "the camera leaves and returns,images are no images,the pose jumps,the bundle changes,two students change places"
)
LARGEST_GROWTH_MB = 200.0  # memory pools still fill in the first minute, and a model is built twice

FLAT = Record(
    minutes=10.0,
    samples=[
        Sample(0.1 * step, 400.0 + step % 2, 450.0, 20, 30, sent=6 * step, received=6 * step, completed=step)
        for step in range(101)
    ],
    events=[Event(1.0, "the camera pauses", "input: no image for", 2.5, 1.0)],
    sent=600,
    received=600,
    completed=90,
    dropped={"newer image arrived": 510},
)


def grown(name: str, a_minute: float) -> Record:
    """A soak in which something grows evenly after the warm-up of two minutes."""
    samples = [
        replace(one, **{name: getattr(one, name) + a_minute * max(0.0, one.minute - FLAT.warm_up)})
        for one in FLAT.samples
    ]
    return replace(FLAT, samples=samples)


def test_a_short_soak(bundle_folder: Path, grid_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    given = ["--minutes", "0.2", "--rate", "10", "--threads", "1", "--bundle", str(bundle_folder), "--faults", FAULTS]
    given += ["--grid", str(grid_file), "--largest-growth", str(LARGEST_GROWTH_MB), "--output", str(tmp_path)]
    status = soak.main(given)
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert (tmp_path / "soak.md").read_text(encoding="utf-8").strip() == printed.strip()
    assert cv2.imread(str(tmp_path / "memory.png")) is not None
    lines = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text(encoding="utf-8").splitlines()]
    events = {line["name"]: line for line in lines if line["kind"] == "event"}
    assert set() < set(events) <= set(FAULTS.split(","))
    assert all(event["told_s"] > 0 and event["over_s"] is not None for event in events.values())
    samples = [line for line in lines if line["kind"] == "sample"]
    assert len(samples) > 2
    assert all(0 < sample["own_mb"] < sample["shared_out_mb"] for sample in samples)
    assert samples[-1]["completed"] > 0
    assert samples[0]["students"] == 2


def test_what_does_not_grow_is_no_fault() -> None:
    assert FLAT.faults() == []
    assert FLAT.grown("own_mb") == 0.0  # it goes up and down
    before = [replace(one, own_mb=100.0) if one.minute < 2.0 else one for one in FLAT.samples]
    assert replace(FLAT, samples=before).faults() == []  # the warm-up does not count
    assert "Nothing grew" in FLAT.text()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (grown("own_mb", 1.5), "memory grew by 12.0 MB, more than 10.0"),  # 8 minutes
        (grown("threads", 0.2), "1.6 threads more"),
        (grown("open_files", 0.2), "1.6 open files more"),
        (replace(FLAT, sent=603), "3 of 603 images did not reach the node"),
        (replace(FLAT, completed=80), "10 of 600 images are not accounted for"),
        (replace(FLAT, received=0, sent=0, completed=0, dropped={}), "no image was completed"),
        (replace(FLAT, events=[Event(1.0, "a", "input: b", None, 1.0)]), "minute 1.0, a: nobody said input: b"),
        (replace(FLAT, events=[Event(1.0, "a", "input: b", 2.0, None)]), "a: not forgotten: input: b"),
        (replace(FLAT, error="it ended early"), "it ended early"),
        (replace(FLAT, samples=FLAT.samples[:20]), "too few measurements"),
    ],
)
def test_what_should_not_be_is_a_fault(found: Record, words: str) -> None:
    (fault,) = found.faults()
    assert words in fault
    assert fault in found.text()


def test_the_slope_is_not_led_by_a_few_points() -> None:
    """Of the slopes 1, 1, 1, 100, 50.5, 34 between 0, 1, 2 and 102 the middle is (1 + 34) / 2."""
    assert slope([0, 1, 2, 3], [0.0, 1.0, 2.0, 102.0]) == pytest.approx((1 + 34) / 2)
    assert slope([0, 1, 2, 3, 4], [5.0, 5.0, 900.0, 5.0, 5.0]) == 0.0
    assert slope([1.0], [7.0]) == 0.0


def test_one_student_is_not_compared_with_two() -> None:
    """Slopes within the groups: 1 of the one, 3 of the other; between them it would be 100 and more."""
    assert slope([0, 1, 2, 3], [0.0, 100.0, 2.0, 106.0], [1, 2, 1, 2]) == 2.0
    assert slope([0, 1, 2], [0.0, float("nan"), 2.0], [1, 1, 1]) == 1.0
    part = [replace(one, students=1 if one.minute < 7.0 else 2) for one in FLAT.samples]
    loaded = [replace(one, own_mb=one.own_mb + 280.0 * (one.students - 1)) for one in part]
    assert replace(FLAT, samples=loaded).faults() == []
    while_exchanged = [replace(one, students=0, own_mb=90.0) if 6.5 < one.minute < 7.0 else one for one in loaded]
    assert replace(FLAT, samples=while_exchanged).faults() == []
    grows = [replace(one, own_mb=one.own_mb + 2.0 * one.minute) for one in while_exchanged]
    assert replace(FLAT, samples=grows).grown("own_mb") == pytest.approx(16.0)


def test_memory_is_read_as_the_system_writes_it(tmp_path: Path) -> None:
    (tmp_path / "smaps_rollup").write_text(
        "00400000-7ffd [rollup]\nRss:   9000 kB\nPss:     3000 kB\nPrivate_Clean: 1000 kB\nPrivate_Dirty:  500 kB\n"
    )
    assert memory_mb(tmp_path) == pytest.approx((1.536, 3.072))  # of 1024 bytes


def test_a_run_beside_the_tests_has_a_domain_of_its_own() -> None:
    first, last = soak.DOMAINS
    assert {int(next_domain()) for _ in range(2 * DOMAINS)}.isdisjoint(range(first, last + 1))
    assert last <= HIGHEST_SAFE_DOMAIN
