"""A few of the kills of `python -m benchmarks.kills`, and what it takes for a loss."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import kills
from benchmarks.kills import DamageError, Finish, Victim, check_saved, save
from scene_completion_ros.whole_files import write_whole

SLOW_BYTES = 50 * 2**20  # as long to write as a kill takes to come


def in_place(output: Path, number: int, finish: Finish) -> None:
    """Write a file under its final name."""
    (output / "file").write_bytes(bytes(SLOW_BYTES))
    finish("file")


def whole(output: Path, number: int, finish: Finish) -> None:
    """Write a file beside its place."""
    write_whole(output / "file", bytes(SLOW_BYTES))
    finish("file")


def forgetful(output: Path, number: int, finish: Finish) -> None:
    """Remove what is finished."""
    whole(output, number, finish)
    (output / "file").unlink()
    whole(output, number, finish)


def check_file(output: Path, finished: Sequence[str]) -> None:
    file = output / "file"
    if finished and not file.exists():
        raise DamageError("file is gone")
    if file.exists() and file.stat().st_size != SLOW_BYTES:
        raise DamageError("file is short")


def test_a_few_kills_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert kills.main(["--times", "9"]) == 0
    printed = capsys.readouterr().out
    for name in kills.VICTIMS:
        found = re.search(rf"\| {name} \| [0-9.]+ \| (\d+) \| \d+ \| (\d+) \|", printed)
        assert found is not None
        assert int(found[1]) == 3
        assert int(found[2]) > 3
    assert "nothing was lost, and nothing half written was read" in printed


@pytest.mark.parametrize(
    ("work", "fault"),
    [(in_place, ["DamageError: file is short"]), (forgetful, ["DamageError: file is gone"]), (whole, [])],
)
def test_what_is_written_badly_is_found(
    tmp_path: Path, work: Callable[[Path, int, Finish], None], fault: list[str]
) -> None:
    tally = kills.kill(Victim(work, check_file), tmp_path / "victim", 20 if fault else 6, random.Random(1))
    assert tally.faults == fault


def test_files_that_are_gone_or_short_are_noted(tmp_path: Path) -> None:
    finished: list[str] = []
    save(tmp_path, 1, finished.append)
    check_saved(tmp_path, finished)
    ply = (tmp_path / finished[0]).with_suffix(".ply")
    content = ply.read_bytes()
    ply.write_bytes(content[:-1])
    with pytest.raises(DamageError, match="is not what was written"):
        check_saved(tmp_path, [])
    ply.unlink()
    for names in (finished, []):  # the other one of the pair is there
        with pytest.raises(DamageError, match=r"is gone, with \.ply"):
            check_saved(tmp_path, names)
