"""Tasks in this process and on a cluster: the same results, and errors that say what to do."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scene_completion_training import workers as module
from scene_completion_training.workers import Progress, Workers

from scene_completion_ros.errors import ImprovementError, SceneCompletionError

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
        raise ImprovementError("it is night", where="drive 1", cure="Record by day")
    return task


def test_tasks_in_this_process() -> None:
    found = list(Workers().run(squared, [3, 1, 2], sizes=[1, 1, 1], **OPTIONS))
    assert found == [(number, (task * task, os.getpid())) for number, task in enumerate([3, 1, 2])]
    with pytest.raises(ImprovementError, match=r"drive 1: it is night\. Record by day"):
        Workers().in_order(refused, [0, 1], **OPTIONS)


def test_a_cluster_does_tasks_and_their_order_stays(joined: Workers, tmp_path: Path) -> None:
    found = joined.in_order(squared, range(4), needs=lambda _: [tmp_path], written=tmp_path / "new", **OPTIONS)
    assert [square for square, _ in found] == [0, 1, 4, 9]
    assert os.getpid() not in {process for _, process in found}
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]  # nothing stays of the look for a common disk


def test_what_a_task_raises_arrives_whole(joined: Workers) -> None:
    with pytest.raises(ImprovementError) as raised:
        joined.in_order(refused, [0, 1], **OPTIONS)
    error = raised.value
    assert (error.what, error.where, error.cure) == ("it is night", "drive 1", "Record by day")


def test_a_worker_that_dies_once_is_replaced(joined: Workers, tmp_path: Path) -> None:
    assert joined.in_order(killed_once, [tmp_path], **OPTIONS) == ["done"]


def test_a_worker_that_always_dies(joined: Workers, tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=f"{tmp_path}: its worker died.*start the same command again"):
        joined.in_order(killed, [tmp_path], **OPTIONS)
    assert joined.in_order(killed, [tmp_path], lost=lambda _, why: why.partition(":")[0], **OPTIONS) == [
        "its worker died"
    ]


def test_machines_that_see_no_file(joined: Workers, tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=f"machine {socket.gethostname()}: does not see {tmp_path}/bag"):
        joined.in_order(squared, [1], needs=lambda _: [tmp_path / "bag"], **OPTIONS)


def test_machines_of_another_version(joined: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.scene_completion_ros, "__version__", "99.0")
    with pytest.raises(SceneCompletionError, match=r"this one 99\.0\. Install the same version"):
        joined.in_order(squared, [1], **OPTIONS)


def test_machines_without_the_package(joined: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    only_here = ModuleType("only_here")
    only_here.Task = type("Task", (), {"__module__": "only_here"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    with pytest.raises(SceneCompletionError, match=r"cannot import the work: .*only_here.*Install"):
        joined.in_order(squared, [only_here.Task()], **OPTIONS)


def test_a_cluster_without_the_cores_of_a_task(cluster: str, joined: Workers) -> None:
    joined.close()  # Ray joins one cluster at a time
    with pytest.raises(SceneCompletionError, match=r"--threads: a task takes 999 cores.*no machine"):
        Workers(ray_address=cluster, threads=999).__enter__()


def test_local_processes_on_a_machine_of_a_cluster(joined: Workers) -> None:
    joined.close()
    with Workers(2) as local:
        found = local.in_order(squared, range(3), **OPTIONS)
    assert [square for square, _ in found] == [0, 1, 4]
    assert os.getpid() not in {process for _, process in found}


def test_an_address_where_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for unknown in (address, f"ray://{address}", "127.0.0.1:port"):
        with pytest.raises(SceneCompletionError, match=f"--ray-address {unknown}: no Ray cluster answers"):
            Workers(ray_address=unknown).__enter__()


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(SceneCompletionError, match="Ray is missing. Install the extra 'train'"):
        Workers(2).in_order(squared, [1, 2], **OPTIONS)
