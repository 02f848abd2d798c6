"""Where independent tasks run: in turn in this process, in processes of this machine, or on a Ray cluster."""

import logging
import os
import re
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import scene_completion_ros
from scene_completion_ros.errors import SceneCompletionError

if TYPE_CHECKING:
    import torch

Task = TypeVar("Task")
Result = TypeVar("Result")
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere unless the user wants it
    # Seconds that its processes may take to start: on a busy machine more than Ray's 30 and 60.
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
}
STARTS = 5  # of 30 s each, which nothing can change
ANSWER_S = 10.0  # seconds that a cluster has to take a connection; Ray itself would try for minutes
_NOT_IMPORTED = re.compile(r"No module named \S+|failed to import on the worker")


def computes_bfloat16(device: str) -> bool:
    """Whether a device of a kind ("cpu", "cuda") computes in bfloat16; a CPU that imitates it is slow."""
    if device != "cpu":
        return True
    import torch

    return any(there is True for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def accelerator() -> "torch.device":
    """Where networks compute: on a GPU where there is one. What comes of them is handed on by the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Progress:
    """What a task says of how far it is, for a bar, if anybody watches. On another machine nobody hears it."""

    def __init__(self, bar: Any = None, name: str = "") -> None:
        self._bar, self._name, self.steps = bar, name, 0

    def step(self) -> None:
        """One of the steps of the task is done."""
        self.steps += 1
        if self._bar is not None:
            self._bar.update()

    def phase(self, text: str) -> None:
        """What the task does now."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._name}: {text}")


class Workers:
    """Does tasks. As a context it joins a cluster at once, so that one that does not answer is known before the work.

    `processes`: tasks at once on this machine; 1 does them in this process, without Ray; `ray_address`: a Ray cluster
    instead, or `auto`, with this version of the package, and files under the same paths; `threads`: cores of a task.
    """

    def __init__(self, processes: int = 1, ray_address: str | None = None, threads: int = 1) -> None:
        self.processes, self.ray_address, self.threads = processes, ray_address, threads
        self._ray: Any = None

    def __enter__(self) -> "Workers":
        if self.ray_address is not None:
            self._joined()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def alone(self) -> bool:
        """Whether all is done in this process."""
        return self.ray_address is None and self.processes == 1

    def close(self) -> None:
        """Ends what runs elsewhere, and gives the machines back; the next tasks get them anew."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def run(
        self,
        # Does a task. It runs in other processes, and what it changes there is not seen here.
        do: Callable[[Task, Progress], Result],
        tasks: Sequence[Task],
        *,
        unit: str,  # what the bar counts
        name: Callable[[Task], str],  # name of a task, for people
        # From a task whose two workers have died, and the reason, its result; an error if left out.
        lost: Callable[[Task, str], Result] | None = None,
        sizes: Sequence[int] | None = None,  # steps of each task; one if left out
        # Files and folders that a worker has to see for a task, absolute.
        needs: Callable[[Task], Sequence[Path]] = lambda _: (),
        written: Path | None = None,  # folder in which workers write
    ) -> Iterator[tuple[int, Result]]:
        """Yields the number of each task with its result, as they come; a bar shows how long the others will take.

        Raises SceneCompletionError: Ray is missing, its cluster does not answer, its machines do not see the files, or
        workers died; Exception: what a task raises.
        """
        sizes = [1] * len(tasks) if sizes is None else sizes
        with progress_bar(sum(sizes), unit) as bar:
            if self.ray_address is None and (self.processes == 1 or len(tasks) <= 1):
                for number, task in enumerate(tasks):
                    progress = Progress(bar, name(task))
                    yield number, do(task, progress)
                    bar.update(sizes[number] - progress.steps)
            elif tasks:
                for number, result in self._elsewhere(do, tasks, lost, name, needs, written):
                    bar.set_postfix_str(name(tasks[number]))
                    yield number, result
                    bar.update(sizes[number])

    def in_order(self, do: Callable[[Task, Progress], Result], tasks: Sequence[Task], **options: Any) -> list[Result]:
        """The results of all tasks, in their order; arguments and errors as of `run`."""
        found = dict(self.run(do, tasks, **options))
        return [found[number] for number in range(len(tasks))]

    def _elsewhere(
        self,
        do: Callable[[Task, Progress], Result],
        tasks: Sequence[Task],
        lost: Callable[[Task, str], Result] | None,
        name: Callable[[Task], str],
        needs: Callable[[Task], Sequence[Path]],
        written: Path | None,
    ) -> Iterator[tuple[int, Result]]:
        ray = self._joined()
        remote = ray.remote(num_cpus=self.threads, max_retries=1)(_done)
        seen: list[Path] = []
        if written is not None and self.ray_address is not None:  # a folder of this name may lie on each disk
            written.mkdir(parents=True, exist_ok=True)
            seen.append(written / f".seen-{uuid.uuid4().hex}")
            seen[0].touch()
        try:
            shared = ray.put(do)
            running = {
                remote.remote(shared, task, [*needs(task), *seen], scene_completion_ros.__version__): number
                for number, task in enumerate(tasks)
            }
            while running:
                done, _ = ray.wait(list(running), num_returns=1)
                for reference in done:
                    number = running.pop(reference)
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise _told(error) from error
                    except ray.exceptions.RayError as error:
                        reason = f"its worker died: {str(error).splitlines()[0]}"
                        if lost is None:
                            cure = "Look at that machine's memory, and start the same command again"
                            raise SceneCompletionError(reason, where=name(tasks[number]), cure=cure) from error
                        result = lost(tasks[number], reason)
                    yield number, result
        finally:
            for marker in seen:
                marker.unlink(missing_ok=True)

    def _joined(self) -> Any:
        """Ray, started or joined with its cluster."""
        if self._ray is not None:
            return self._ray
        if find_spec("ray") is None:
            raise SceneCompletionError("Ray is missing", where="--workers", cure="Install the extra 'train'")
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        ray: Any = import_module("ray")
        if self.ray_address is not None:
            _refuse_silent(self.ray_address)
        _start(ray, self.processes * self.threads, self.ray_address)
        self._ray = ray
        most = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if most < self.threads:
            self.close()
            what = f"a task takes {self.threads} cores, and no machine of the cluster has more than {most:g}"
            raise SceneCompletionError(what, where="--threads", cure="Lower --threads, or add machines")
        return ray


def progress_bar(total: int, unit: str) -> Any:
    """A bar that counts, with the time left; none where nobody watches."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, unit=unit, file=sys.stderr, disable=None if total else True)


def _done(do: Callable[[Any, Progress], Any], task: Any, paths: Sequence[Path], version: str) -> Any:
    """Does a task on a worker, if that is one on which it can be done."""
    where = f"machine {socket.gethostname()}"
    if version != scene_completion_ros.__version__:
        what = f"has version {scene_completion_ros.__version__} of scene_completion_ros, this one {version}"
        raise SceneCompletionError(what, where=where, cure="Install the same version on all machines of the cluster")
    hidden = [str(path.parent if path.name.startswith(".seen-") else path) for path in paths if not path.exists()]
    if hidden:
        cure = "Put recordings, students and the working folder where all machines have them under the same paths"
        raise SceneCompletionError(f"does not see {', '.join(hidden)}", where=where, cure=cure)
    return do(task, Progress())


def _told(error: Any) -> Exception:
    """What a task raised; where its machine cannot even import it, what to do about that."""
    if not isinstance(error.cause, SceneCompletionError) and (found := _NOT_IMPORTED.search(str(error))):
        return SceneCompletionError(
            f"the cluster's machines cannot import the work: {found[0]}",
            where="--ray-address",
            cure="Install scene_completion_ros with the extra 'train' on all machines of the cluster",
        )
    return error.cause if isinstance(error.cause, Exception) else Exception(str(error))


def _refuse_silent(address: str) -> None:
    """Refuses an address at which nobody takes a connection."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # `auto` and the like
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:
        what = f"no Ray cluster answers: {error}"
        cure = "Check `ray status` on its head node, and the address"
        raise SceneCompletionError(what, where=f"--ray-address {address}", cure=cure) from error


def _start(ray: Any, cores: int, ray_address: str | None) -> None:
    """Start Ray, or join its cluster; what is only slow to start (a bare `Exception` of Ray) is started again."""
    # "local": this machine may be part of a cluster, which Ray would join.
    to_start: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    to_join = to_start if ray_address is None else {"address": ray_address}
    for start in range(STARTS):
        try:
            ray.init(**to_join, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:
            ray.shutdown()
            slow = "timed out during startup" in str(error)
            if slow and start < STARTS - 1:
                continue
            known = ConnectionError | ValueError | RuntimeError | ray.exceptions.RayError
            if not slow and not isinstance(error, known):
                raise
            where = f"--ray-address {ray_address}" if ray_address else "--workers"
            what = f"Ray does not start: {error}"
            raise SceneCompletionError(what, where=where, cure="Check `ray status`") from error
