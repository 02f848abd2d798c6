"""Students by folder and by name, and which of the shipped ones keeps a camera's rate on this machine."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import BundleError, SceneCompletionError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, MANIFEST, StudentBundle
from scene_completion_ros.inference.encoder import check_engine, cpu_engine, gpu_is_offered, make_encoder
from scene_completion_ros.inference.gpu.requirements import EngineOptions
from scene_completion_ros.removed import removed

AUTO = "auto"
_ON_THE_HUB = "hf:"  # how names of students there began
LARGE = "street"  # the one that `auto` takes where it can; a package may come without it
CAMERA_RATE_HZ = 10.0  # taken for the rate of a camera of which nothing is known
# Of the time from one image to the next, what the encoder may take: voxels, messages and other nodes need the rest.
SHARE_OF_PERIOD = 0.6
# Seconds of one thread that an image costs the large one's encoder at least: half of what was measured (0.9, see
# docs/benchmarks.md). Where less is allowed, nothing is tried: opening it takes seconds and half a gigabyte.
LEAST_WORK_S = 0.45


def refused_form(named: str | Path) -> str | None:
    """Why a student cannot be named like that; None where an earlier version had no other form of this kind."""
    return removed("bundle", _ON_THE_HUB) if str(named).startswith(_ON_THE_HUB) else None


def shipped_students(models: Path = DEFAULT_BUNDLE.parent) -> tuple[str, ...]:
    """Names of the students that come with the package."""
    return tuple(sorted(file.parent.name for file in models.glob(f"*/{MANIFEST}")))


def open_student(named: str | Path | None, *, models: Path = DEFAULT_BUNDLE.parent) -> StudentBundle:
    """The student of a folder or name; without a name, or "auto", the default. Raises BundleError."""
    return StudentBundle.load(student_folder(named, models=models))


def student_folder(named: str | Path | None, *, models: Path = DEFAULT_BUNDLE.parent) -> Path:
    """The folder of a student, see `open_student`. Raises BundleError where it is named as on the hub."""
    if named is None or str(named) in ("", AUTO):
        return DEFAULT_BUNDLE
    if refusal := refused_form(named):
        raise BundleError(refusal, where=str(named))
    if str(named) in shipped_students(models) and not Path(named).is_dir():
        return models / str(named)
    return Path(named)


def choose_student(
    named: str,  # folder, name of a shipped student, "auto", or nothing
    *,
    engine: str = "auto",  # encoder engine that will run it
    gpu: EngineOptions | None = None,  # what TensorRT will be asked for
    threads: int | None = None,  # CPU threads of the encoder; None for all
    rate_hz: float = 0.0,  # images a second that are wanted, of all cameras together; 0 where nothing is known
    models: Path = DEFAULT_BUNDLE.parent,  # folder of the shipped students
    clock: Callable[[], float] = time.perf_counter,  # seconds
) -> tuple[StudentBundle, str]:
    """A bundle and why: that asked for, or the large one if fast enough ("auto"). Raises BundleError if none."""
    if named not in ("", AUTO):
        return open_student(named, models=models), "it is named"
    if LARGE not in shipped_students(models):
        return open_student(None), "it is the default"
    allowed_s = SHARE_OF_PERIOD / (rate_hz or CAMERA_RATE_HZ)
    wanted = f"{rate_hz or CAMERA_RATE_HZ:g} images a second"
    try:
        large = StudentBundle.load(models / LARGE)
        if _gpu_can(large, engine, gpu or EngineOptions()):
            return large, "there is a GPU for it"
        if engine == "tensorrt":
            return open_student(None), f"a GPU cannot run {LARGE} here"
        if (threads or len(os.sched_getaffinity(0))) * allowed_s < LEAST_WORK_S:
            return open_student(None), f"{LARGE} needs more threads for {wanted}, or a GPU with an encoder for it"
        encoder = make_encoder(large, cpu_engine() if engine == "auto" else engine, threads=threads)
    except SceneCompletionError as error:
        return open_student(None), f"{LARGE} cannot be used: {error}"
    image = np.zeros((large.canonical.height, large.canonical.width, 3), np.uint8)
    taken = []
    for _ in range(3):  # the first one is slower
        started = clock()
        encoder(image)
        taken.append(clock() - started)
    reason = f"the encoder of {LARGE} takes {1e3 * min(taken):.0f} ms here, and {wanted} leave it {1e3 * allowed_s:.0f}"
    return (large, reason) if min(taken) <= allowed_s else (open_student(None), reason)


def _gpu_can(bundle: StudentBundle, engine: str, gpu: EngineOptions) -> bool:
    """Whether TensorRT would run a bundle, as far as that is known before an engine is built."""
    if engine not in ("auto", "tensorrt") or not gpu_is_offered(bundle):
        return False
    try:
        check_engine(bundle, "tensorrt", gpu, bundle.grid)
    except SceneCompletionError:
        return False
    return True
