"""Steps that are done once, full disks, and files that are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from scene_completion_ros.errors import ImprovementError
from scene_completion_training.improvement.steps import STATE, UNFINISHED, Steps


class Counted:
    """Does a step, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, int]:
        self.times += 1
        return {"times": self.times}


def run_twice(folder: Path, first: list[object], second: list[object]) -> list[int]:
    """How often each of two steps was done by two runs with these inputs."""
    work = [Counted(), Counted()]
    for inputs in (first, second):
        steps = Steps(folder, 2)
        for name, value, do in zip(("first", "second"), inputs, work, strict=True):
            steps.run(name, {"value": value}, do)
    return [one.times for one in work]


def test_a_step_is_done_once(tmp_path: Path) -> None:
    assert run_twice(tmp_path, [1, 2], [1, 2]) == [1, 1]


def test_a_step_with_other_inputs_is_done_anew_and_so_are_those_after_it(tmp_path: Path) -> None:
    assert run_twice(tmp_path / "last", [1, 2], [1, 3]) == [1, 2]
    assert run_twice(tmp_path / "first", [1, 2], [4, 2]) == [2, 2]


@pytest.mark.parametrize("content", ["", "[]", '{"first": 3}', '{"first": {"fingerprint": "x"}}'])
def test_a_damaged_state_is_no_state(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE).write_text(content)
    work = Counted()
    assert Steps(tmp_path, 1).run("first", {}, work) == {"times": 1}


def test_a_full_disk_says_which_step_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    def full() -> dict[str, int]:
        (tmp_path / f"file{UNFINISHED}").write_text("half")
        (tmp_path / f"folder{UNFINISHED}").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ImprovementError, match="the disk is full while training"):
        Steps(tmp_path, 1).run("training", {}, full)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    work = Counted()
    Steps(tmp_path, 1).run("training", {}, work)
    assert work.times == 1
