"""Some seconds of what `python -m benchmarks.soak` does for two hours, and what it takes for a fault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scene_completion_ros.diagnosis.ros_environment import HIGHEST_SAFE_DOMAIN
from tests.ros_domain import DOMAINS, next_domain

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from benchmarks import running_node, soak
from benchmarks.soak import Event, Record, slope

FAULTS = (
    "the camera leaves and returns,images are no images,the pose jumps,the bundle changes,two students change places"
)

FLAT = Record(
    minutes=10.0,
    samples=[
        {"minute": 0.1 * step, "own_mb": 400.0 + step % 2, "threads": 20, "open_files": 30} for step in range(101)
    ],
    events=[Event(1.0, "the camera pauses", "input: no image for", 2.5, 1.0)],
    sent=600,
    received=600,
    completed=90,
    dropped={"newer image arrived": 510},
)


def grown(name: str, a_minute: float) -> Record:
    """A soak in which something grows evenly after the warm-up of two minutes."""
    samples = [{**one, name: one[name] + a_minute * max(0.0, one["minute"] - FLAT.warm_up)} for one in FLAT.samples]
    return replace(FLAT, samples=samples)


def test_a_short_soak(
    bundle_folder: Path,
    grid_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(soak.LARGEST_GROWTH, "own_mb", 200.0)  # memory pools still fill in the first minute
    given = ["--minutes", "0.2", "--rate", "10", "--threads", "1", "--bundle", str(bundle_folder), "--faults", FAULTS]
    status = soak.main([*given, "--grid", str(grid_file), "--output", str(tmp_path)])
    assert status == 0, capsys.readouterr().out
    record = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))
    assert set() < {event["name"] for event in record["events"]} <= set(FAULTS.split(","))
    assert all(event["named_s"] > 0 and event["forgotten_s"] is not None for event in record["events"])
    assert len(record["samples"]) > 2
    assert all(sample["own_mb"] > 0 for sample in record["samples"])
    assert record["completed"] > 0


def test_what_does_not_grow_is_no_fault() -> None:
    assert FLAT.faults() == []
    assert FLAT.grown("own_mb") == 0.0  # it goes up and down
    before = [{**one, "own_mb": 100.0} if one["minute"] < 2.0 else one for one in FLAT.samples]
    assert replace(FLAT, samples=before).faults() == []  # the warm-up does not count
    assert "Nothing grew" in FLAT.text()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (grown("own_mb", 1.5), "own_mb grew by 12.0"),  # 8 minutes
        (grown("threads", 0.2), "threads grew by 1.6"),
        (grown("open_files", 0.2), "open_files grew by 1.6"),
        (replace(FLAT, sent=603), "3 of 603 images did not reach the node"),
        (replace(FLAT, completed=80), "10 of 600 images are not accounted for"),
        (replace(FLAT, received=0, sent=0, completed=0, dropped={}), "no image was completed"),
        (replace(FLAT, events=[Event(1.0, "a", "input: b", None, 1.0)]), "minute 1.0, a: nobody named input: b"),
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


def test_a_run_beside_the_tests_has_a_domain_of_its_own() -> None:
    first, last = running_node.DOMAINS
    assert {int(next_domain()) for _ in range(2 * DOMAINS)}.isdisjoint(range(first, last + 1))
    assert last <= HIGHEST_SAFE_DOMAIN
