"""A few of the kills of `python -m benchmarks.kills`, and what it takes for a loss."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import kills
from benchmarks.kills import HalfWrittenError, Job, LostError, Tally, Victim, check_ply, check_saved, judge, save
from scene_completion_ros.whole_files import write_whole

SLOW_BYTES = 50 * 2**20  # as long to write as a kill takes to come


def in_place(job: Job) -> None:
    """Write a file under its final name."""
    (job.output / "file").write_bytes(bytes(SLOW_BYTES))
    job.tell("file")


def whole(job: Job) -> None:
    """Write a file beside its place."""
    write_whole(job.output / "file", bytes(SLOW_BYTES))
    job.tell("file")


def forgetful(job: Job) -> None:
    """Remove what was told to be finished."""
    whole(job)
    (job.output / "file").unlink()
    whole(job)


def check_file(output: Path, told: Sequence[str]) -> None:
    file = output / "file"
    if told and not file.exists():
        raise LostError("file is gone")
    if file.exists() and file.stat().st_size != SLOW_BYTES:
        raise HalfWrittenError("file is short")


@pytest.mark.parametrize("what", ["save", "record"])
def test_a_few_kills_lose_nothing(tmp_path: Path, what: str) -> None:
    result = tmp_path / "kills.json"
    assert kills.main(["--times", "4", "--what", what, "--folder", str(tmp_path), "--json", str(result)]) == 0
    tally = json.loads(result.read_text())[what]
    assert tally["kills"] == 4
    assert tally["finished"] > 4
    assert tally["lost"] == tally["half_written"] == tally["failed"] == tally["left_over"] == []


@pytest.mark.parametrize(("work", "fault"), [(in_place, "half_written"), (forgetful, "lost"), (whole, None)])
def test_what_is_written_badly_is_found(tmp_path: Path, work: Callable[[Job], None], fault: str | None) -> None:
    tally = kills.kill(Victim(work, check_file), tmp_path / "victim", 20 if fault else 6, random.Random(1))
    assert [name for name in ("lost", "half_written", "failed", "left_over") if getattr(tally, name)] == (
        [fault] if fault else []
    )


def test_files_that_are_gone_or_short_are_noted(tmp_path: Path) -> None:
    told: list[str] = []
    save(Job(tmp_path, tmp_path, 1, told.append))
    victim, tally = kills.VICTIMS["save"], Tally()
    judge(victim, tmp_path, told, tally)
    assert tally.faults == []
    ply = tmp_path / Path(told[0]).with_suffix(".ply")
    content = ply.read_bytes()
    ply.write_bytes(content[:-1])
    with pytest.raises(HalfWrittenError, match="not what its header says"):
        check_ply(ply)
    ply.unlink()
    with pytest.raises(LostError, match="is gone"):
        check_saved(tmp_path, told)
    with pytest.raises(HalfWrittenError, match=r"no \.ply"):
        check_saved(tmp_path, told[1:])
    (tmp_path / told[0]).write_bytes(b"PK")
    judge(victim, tmp_path, told[1:], tally)
    assert len(tally.half_written) == 1
