"""Students by folder, by name and on the hub, and which of the shipped ones keeps a camera's rate on this machine.

A student on the Hugging Face hub is named ``hf:owner/name@revision``; the client of the hub fetches it. Only files are
fetched that have the name of a bundle's file. A bundle that is loaded compares them with the hashes in
``student.json``, and executes or unpickles none. The client, the package huggingface-hub, is an extra (``hub``) and
imported only where a name of this form is used.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import BundleError, SceneCompletionError
from scene_completion_ros.inference import feature_space
from scene_completion_ros.inference.bundle import (
    DECODER,
    DEFAULT_BUNDLE,
    ENCODER,
    HEAD,
    MANIFEST,
    TEXT_BANK,
    WEIGHTS,
    StudentBundle,
)
from scene_completion_ros.inference.encoder import check_engine, cpu_engine, gpu_is_offered, make_encoder
from scene_completion_ros.inference.gpu.requirements import EngineOptions
from scene_completion_ros.inference.gpu_encoders import PRECISIONS, gpu_encoder_file

SCHEME = "hf:"
FORM = "hf:owner/name, or hf:owner/name@revision with a branch, tag or commit"
FILES = (
    MANIFEST,
    HEAD,
    feature_space.FILE,
    TEXT_BANK,
    ENCODER,
    DECODER,
    WEIGHTS,
    *map(gpu_encoder_file, PRECISIONS),
)
_NAME = re.compile(
    r"hf:(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII
)


@dataclass(frozen=True)
class HubName:
    """A bundle on the hub."""

    repository: str  # ``owner/name``
    revision: str = ""  # branch, tag or commit; empty for the main branch

    @staticmethod
    def parse(named: str | Path) -> "HubName":
        """Reads ``hf:owner/name@revision``. Raises BundleError where it has another form."""
        found = _NAME.fullmatch(str(named))
        if found is None or ".." in str(named):
            raise BundleError("is no name of a bundle on the hub", where=str(named), cure=f"Write {FORM}.")
        return HubName(found["repository"], found["revision"] or "")


def is_hub_name(named: str | Path) -> bool:
    """Whether something names a bundle on the hub, or tries to."""
    return str(named).startswith(SCHEME)


def fetch(named: str | Path) -> Path:
    """The hub's folder of a bundle, downloaded if need be. Raises BundleError: other form, no client, no files."""
    name = HubName.parse(named)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        cure = "pip install 'scene_completion_ros[hub]', or name a folder."
        raise BundleError(f"needs the package huggingface-hub ({error})", where=str(named), cure=cure) from error
    try:
        return Path(snapshot_download(name.repository, revision=name.revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # the client's generations raise the errors of three different HTTP libraries
        said = " ".join(str(error).split())[:300].rstrip(".")
        what = f"the hub does not give it ({type(error).__name__}: {said})"
        cure = "Check the name and the network; for a private one, log in with: hf auth login, or set HF_TOKEN."
        raise BundleError(what, where=str(named), cure=cure) from error


AUTO = "auto"
LARGE = "street"  # the one that `auto` takes where it can; a package may come without it
CAMERA_RATE_HZ = 10.0  # taken for the rate of a camera of which nothing is known
# Of the time from one image to the next, what the encoder may take: voxels, messages and other nodes need the rest.
SHARE_OF_PERIOD = 0.6
# Seconds of one thread that an image costs the large one's encoder at least: half of what was measured (0.9, see
# docs/benchmarks.md). Where less is allowed, nothing is tried: opening it takes seconds and half a gigabyte.
LEAST_WORK_S = 0.45


def shipped_students(models: Path = DEFAULT_BUNDLE.parent) -> tuple[str, ...]:
    """Names of the students that come with the package."""
    return tuple(sorted(file.parent.name for file in models.glob(f"*/{MANIFEST}")))


def open_student(named: str | Path | None, *, models: Path = DEFAULT_BUNDLE.parent) -> StudentBundle:
    """The student of a folder, name or the hub; without a name, or "auto", the default. Raises BundleError."""
    return StudentBundle.load(student_folder(named, models=models))


def student_folder(named: str | Path | None, *, models: Path = DEFAULT_BUNDLE.parent) -> Path:
    """The folder of a student, see `open_student`, in the cache if of the hub. Raises BundleError where it fails."""
    if named is None or str(named) in ("", AUTO):
        return DEFAULT_BUNDLE
    if is_hub_name(named):
        return fetch(named)
    if str(named) in shipped_students(models) and not Path(named).is_dir():
        return models / str(named)
    return Path(named)


def own_student(named: str | Path) -> StudentBundle:
    """The student of a folder to be written into. Raises BundleError where it is none, or in the hub's cache."""
    bundle = open_student(named)
    if is_hub_name(named):
        what = f"the command does not change what the hub's client has fetched into {bundle.folder}"
        raise BundleError(what, where=str(named), cure="Copy it (cp -rL) into a folder of your own, and name that one.")
    return bundle


def choose_student(
    named: str,  # folder, name of a shipped student or of one of the hub, "auto", or nothing
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
