"""Engines, kernels and timing caches on disk, each behind the whole of what it was built for.

The cache gives an engine only where all of its key fits: the ONNX graph, TensorRT, the GPU, and what was asked for.
Anything else is built again, with a line in the log that says what differs. Nothing is deserialised to find out.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.sealed_file import (
    PART,
    UnusableFileError,
    distrusted,
    read_header,
    read_sealed,
    write_sealed,
)

# Raised where other settings of the builder, or another parity gate, make former engines worthless.
SCHEMA = 1
LIMIT_BYTES = 2 * 2**30
SUFFIX, TIMING_SUFFIX = ".engine", ".timing"
LOCK = "build.lock"

_log = logging.getLogger(__name__)


class CacheKey:
    """All that a file of the cache depends on: a dataclass of plain values and tuples of them."""

    @property
    def stem(self) -> str:
        """How names of files begin that serve the same purpose elsewhere."""
        raise NotImplementedError

    @property
    def what(self) -> str:
        """What is kept, in words."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """The key as it stands in a header: plain JSON values."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def differences(self, found: object) -> str:
        """What in the key of another file is not as in this one, in words; empty where they are equal."""
        if not isinstance(found, Mapping):
            return "it has no key"
        wanted = self.fields()
        return ", ".join(
            f"{name} is {found.get(name, 'unknown')}, needed is {value}"
            for name, value in wanted.items()
            if name not in found or found[name] != value
        )


@dataclass(frozen=True)
class EngineKey(CacheKey):
    """All that an engine depends on.

    Attributes:
        flavour: TensorRT or TensorRT-RTX.
        machine: Processor architecture of the host, as in ``uname -m``.
        gpu_name: Name of the GPU; empty where it was built without one.
        compute_capability: Its compute capability, such as "8.7"; empty where it was built without one.
        multiprocessors: How many of them it has; the power mode of a Jetson changes that.
        image: Height and width of the images.
        features: Height, width and channels of the features.
        volume: Shape of the volume; None where there is none.
        depth: Height and width of the depth; None where there is none.
        dla_core: Core of the deep learning accelerator; None for the GPU.
        schema: `SCHEMA` of when it was built.
    """

    onnx_sha256: str
    flavour: str
    tensorrt_version: str
    machine: str
    gpu_name: str
    compute_capability: str
    multiprocessors: int
    precision: str
    batch: tuple[int, int]
    image: tuple[int, int]
    features: tuple[int, int, int]
    workspace_mib: int
    volume: tuple[int, ...] | None = None
    depth: tuple[int, int] | None = None
    dla_core: int | None = None
    schema: int = SCHEMA

    @property
    def stem(self) -> str:
        """See `CacheKey`."""
        return f"{self.onnx_sha256[:12]}-{self.precision}"

    @property
    def what(self) -> str:
        """See `CacheKey`."""
        return f"the {self.precision} engine"

    @property
    def for_timings(self) -> dict[str, Any]:
        """What a timing cache depends on."""
        of_the_engine = {
            "onnx_sha256",
            "precision",
            "batch",
            "image",
            "features",
            "volume",
            "depth",
            "workspace_mib",
            "dla_core",
        }
        return {name: value for name, value in self.fields().items() if name not in of_the_engine}


@dataclass(frozen=True)
class CachedEngine:
    """An engine, or kernels, from the cache.

    Attributes:
        plan: The serialised engine, or the kernels' machine code.
        record: What was noted when it was built, such as the numbers of the parity gate.
    """

    plan: bytes
    record: Mapping[str, Any]
    path: Path


class EngineCache:
    """A folder of engines.

    Args:
        folder: The folder, made if needed; None for the user's, see `default_folder`.
        limit_bytes: Size of all files above which those are removed that were not used for longest.

    Raises:
        GpuError: The folder cannot be made, or others may write to it.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = default_folder() if folder is None else folder
        self._limit_bytes = limit_bytes
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            state = self.folder.stat()
        except OSError as error:
            raise self._error(f"cannot be made ({error.strerror})") from error
        reason = distrusted(state)
        if reason:
            raise self._error(f"{reason}; engines are programs")

    def path(self, key: CacheKey) -> Path:
        """File of an engine; another key has another one."""
        return self.folder / f"{key.stem}-{_digest(key.fields())}{SUFFIX}"

    def load(self, key: CacheKey, *, explain: bool = True) -> CachedEngine | None:
        """The engine for a key; None, which the log explains where asked to, where there is none that can be used."""
        path = self.path(key)
        try:
            header = read_header(path)
            differences = key.differences(header.get("key"))
            if differences:
                raise UnusableFileError(differences)
            plan = read_sealed(path, {"key": key.fields()})
        except FileNotFoundError:
            if explain:
                self._explain_absence(key)
            return None
        except UnusableFileError as error:
            if explain:
                _log.warning("%s is not used: %s; the node builds it again", path, error)
            return None
        self._note_use(path)
        record = header.get("record")
        return CachedEngine(plan, record if isinstance(record, dict) else {}, path)

    def store(self, key: CacheKey, plan: bytes, record: Mapping[str, Any]) -> Path | None:
        """Keep an engine, and remove what was not used for longest where there is too much; only while locked.

        Returns:
            Its file; None where it could not be written, which is logged: the former file is as it was.
        """
        path = self.path(key)
        if not self._write(path, {"key": key.fields(), "record": dict(record)}, plan):
            return None
        self._trim(keep=path)
        return path

    def load_timings(self, key: EngineKey) -> bytes:
        """The timing cache for a key; empty where there is none that can be used."""
        path = self._timing_path(key)
        try:
            return read_sealed(path, {"key": key.for_timings})
        except FileNotFoundError:
            return b""
        except UnusableFileError as error:
            _log.warning("the timings in %s are not used: %s", path, error)
            return b""

    def store_timings(self, key: EngineKey, timings: bytes) -> None:
        """Keep a timing cache; only while locked."""
        self._write(self._timing_path(key), {"key": key.for_timings}, timings)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from building into this folder: they wait, and then find the engine.

        The lock is one for the folder, since two builds at a time would disturb each other's timings. It ends with the
        process, however that ends.

        Raises:
            GpuError: The folder cannot be written to, or knows no locks.
        """
        try:
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._error(f"cannot be written to ({error.strerror})") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("another process builds an engine in %s: waiting for it", self.folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            os.close(descriptor)
            raise self._error(f"cannot be locked ({error.strerror})") from error
        try:
            yield
        finally:
            os.close(descriptor)

    def _explain_absence(self, key: CacheKey) -> None:
        near = [path for path in self._files() if path.name.startswith(f"{key.stem}-")]
        for path in near:
            try:
                reason = key.differences(read_header(path).get("key"))
            except (FileNotFoundError, UnusableFileError) as error:
                reason = str(error)
            _log.info("%s cannot be used: %s", path, reason)
        what = "none of them fits" if near else "there is none"
        _log.info("%s is built into %s: %s", key.what, self.folder, what)

    def _write(self, path: Path, header: Mapping[str, Any], payload: bytes) -> bool:
        try:
            for left_over in self.folder.glob(f".*{PART}"):  # of a process that was killed: this one has the lock
                left_over.unlink(missing_ok=True)
            write_sealed(path, header, payload)
        except OSError as error:
            _log.warning("%s cannot be written (%s): the next start builds it again", path, error.strerror)
            return False
        return True

    def _trim(self, keep: Path) -> None:
        entries = []
        for path in self._files():
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            entries.append((path == keep, state.st_mtime_ns, path, state.st_size))
        excess = sum(size for *_, size in entries) - self._limit_bytes
        for kept, _, path, size in sorted(entries):
            if excess <= 0 or kept:
                break
            path.unlink(missing_ok=True)
            excess -= size
            _log.info("%s is removed: the engines in its folder take more than %d bytes", path, self._limit_bytes)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.suffix in (SUFFIX, TIMING_SUFFIX))

    def _timing_path(self, key: EngineKey) -> Path:
        return self.folder / f"{_digest(key.for_timings)}{TIMING_SUFFIX}"

    def _note_use(self, path: Path) -> None:
        try:
            os.utime(path)
        except OSError:  # of another owner, or on a read-only file system: then it is not this one that trims
            _log.debug("the last use of %s cannot be noted", path)

    def _error(self, what: str) -> GpuError:
        cure = f"Let this user alone write to it (chmod 700 {self.folder}), or name another (--cache, engine_cache)."
        return GpuError(what, where=f"engine cache {self.folder}", cure=cure)


def default_folder() -> Path:
    """The folder of this user's engines, below ``XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        GpuError: The user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the XDG specification has relative ones ignored
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError as error:
            cure = "Set XDG_CACHE_HOME, or name a folder (--cache, engine_cache)."
            raise GpuError("this user has no home folder", where="engine cache", cure=cure) from error
    return Path(base) / "scene_completion_ros" / "engines"


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
