"""Tasks in this process and on a cluster: the same results, and errors that say what to do."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_training import workers as module
from scene_completion_training.workers import Progress, Workers

OPTIONS: dict[str, Any] = {"unit": "task", "name": str}


@pytest.fixture(scope="module")
def joined(cluster: str) -> Iterator[Workers]:
    with Workers(ray_address=cluster) as workers:
        yield workers


def squared(task: int, progress: Progress) -> tuple[int, int]:
    progress.phase("squaring")
    progress.step()
    return task * task, os.getpid()


def killed_once(folder: Path, progress: Progress) -> str:
    if not (folder / "begun").exists():
        (folder / "begun").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def killed(folder: Path, progress: Progress) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def refused(task: int, progress: Progress) -> int:
    if task == 1:
        raise SequenceError("it is night", where="drive 1", cure="Record by day")
    return task


def test_a_cluster_does_tasks_and_their_order_stays(joined: Workers, tmp_path: Path) -> None:
    found = joined.in_order(squared, range(4), needs=lambda _: [tmp_path], written=tmp_path / "new", **OPTIONS)
    assert [square for square, _ in found] == [0, 1, 4, 9]
    assert os.getpid() not in {process for _, process in found}
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]  # nothing stays of the look for a common disk


def test_what_a_task_raises_arrives_whole(joined: Workers) -> None:
    with pytest.raises(SequenceError) as raised:
        joined.in_order(refused, [0, 1], **OPTIONS)
    error = raised.value
    assert (error.what, error.where, error.cure) == ("it is night", "drive 1", "Record by day")


def test_a_worker_that_dies_once_is_replaced(joined: Workers, tmp_path: Path) -> None:
    assert joined.in_order(killed_once, [tmp_path], **OPTIONS) == ["done"]


def test_a_worker_that_always_dies(joined: Workers, tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=f"{tmp_path}: its worker died.*start the same command again"):
        joined.in_order(killed, [tmp_path], **OPTIONS)
    found = joined.in_order(killed, [tmp_path], lost=lambda _, why: why.partition(":")[0], **OPTIONS)
    assert found == ["its worker died"]


def test_machines_that_see_no_file(joined: Workers, tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=f"machine {socket.gethostname()}: does not see {tmp_path}/bag"):
        joined.in_order(squared, [1], needs=lambda _: [tmp_path / "bag"], **OPTIONS)


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(SceneCompletionError, match="Ray is missing. Install the extra 'train'"):
        Workers(2).in_order(squared, [1, 2], **OPTIONS)
