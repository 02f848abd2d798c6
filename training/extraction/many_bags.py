"""Many bags at once: in this process, or on many cores and machines through Ray."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_training.extraction.bag import Job, extract_bag, fingerprint, finished_report
from scene_completion_training.extraction.reports import BagReport

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere unless the user wants it
    # Seconds that its processes may take to start: on a busy machine more than Ray's 30 and 60.
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
}
STARTS = 5  # of 30 s each, which nothing can change


def extract_bags(jobs: Sequence[Job], *, workers: int = 1, ray_address: str | None = None) -> list[BagReport]:
    """Extract bags; those that were extracted before, unchanged and with the same settings, are left alone.

    Args:
        workers: Processes on this machine; 1 extracts in this process, without Ray.
        ray_address: A Ray cluster to use instead; bags and output must lie under the same paths on all its machines.

    Returns:
        One report a bag, in order.

    Raises:
        SceneCompletionError: Ray is asked for and not installed, or its cluster does not answer.
    """
    reports: dict[int, BagReport] = {}
    waiting: list[int] = []
    for index, job in enumerate(jobs):
        try:
            earlier = finished_report(job)
        except SceneCompletionError as error:
            reports[index] = _failed(job, str(error))
            continue
        if earlier is None:
            waiting.append(index)
        else:
            reports[index] = earlier
    if len(reports) and waiting:
        print(f"{len(reports)} of {len(jobs)} bags need nothing", file=sys.stderr)
    inside = ray_address is None and (workers == 1 or len(waiting) <= 1)
    with _bar(len(waiting)) as bar:
        open_jobs = {index: jobs[index] for index in waiting}
        done = _in_this_process(open_jobs, bar) if inside else _through_ray(open_jobs, bar, workers, ray_address)
        for index, report in done:
            reports[index] = report
            bar.update()
    return [reports[index] for index in range(len(jobs))]


def output_folders(bags: Sequence[Path], output: Path) -> list[Path]:
    """One folder a bag, named after it; bags of one name are told apart by the folder they lie in, then by number."""
    names = [bag.resolve().stem for bag in bags]
    if len(set(names)) < len(names):
        names = [f"{bag.resolve().parent.name}_{bag.resolve().stem}" for bag in bags]
    seen: dict[str, int] = {}
    folders = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        folders.append(output / (name if seen[name] == 1 else f"{name}_{seen[name]}"))
    return folders


def _in_this_process(jobs: Mapping[int, Job], bar: Any) -> Iterator[tuple[int, BagReport]]:
    for index, job in jobs.items():
        yield index, extract_bag(job, _phases(bar, job.bag.name))


def _phases(bar: Any, name: str) -> Callable[[str], None]:
    return lambda phase: bar.set_postfix_str(f"{name}: {phase}")


def _start(ray: Any, workers: int, ray_address: str | None) -> None:
    """Start Ray, or join its cluster; what is only slow to start (a bare `Exception` of Ray) is started again."""
    to_start: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
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
            if not slow and not isinstance(error, ConnectionError | ValueError | RuntimeError):
                raise
            where = f"--ray-address {ray_address}"
            raise SceneCompletionError(
                f"Ray does not start: {error}", where=where, cure="Check `ray status`"
            ) from error


def _through_ray(
    jobs: Mapping[int, Job], bar: Any, workers: int, ray_address: str | None
) -> Iterator[tuple[int, BagReport]]:
    """Yield reports as they come; a worker that dies fails its bag only."""
    if find_spec("ray") is None:
        raise SceneCompletionError("Ray is missing", where="--workers", cure="Install the extra 'train'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    _start(ray, workers, ray_address)
    try:
        task = ray.remote(num_cpus=1, max_retries=1)(extract_bag)
        running = {task.remote(job): index for index, job in jobs.items()}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                index = running.pop(reference)
                bar.set_postfix_str(jobs[index].bag.name)
                try:
                    yield index, ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield index, _failed(jobs[index], f"its worker died: {str(error).splitlines()[0]}")
    finally:
        ray.shutdown()


def _failed(job: Job, problem: str) -> BagReport:
    print_of_bag = fingerprint(job.bag) if job.bag.exists() else ""
    return BagReport(str(job.bag.resolve()), print_of_bag, job.settings.digest(), problems=[problem])


def _bar(total: int) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, unit="bag", file=sys.stderr, disable=None if total else True)
