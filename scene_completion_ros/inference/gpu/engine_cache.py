"""Engines and kernels on disk, each behind all that it was made for.

A file is found by the hash of its key. It begins with a line, the sha256 of key and content together. A file that is
damaged, or was made for something else, is made again. The hash finds mistakes, not malice, and engines are programs:
files that others may write are not read.
"""

import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from scene_completion_ros.errors import GpuError
from scene_completion_ros.whole_files import whole_file

SUFFIX, LOCK = ".engine", "build.lock"
MOST_FILES = 16  # of students, each for each power mode of a Jetson
Key = Mapping[str, Any]  # plain JSON values
T = TypeVar("T")

_log = logging.getLogger(__name__)


class UnusableError(GpuError):
    """What is in the cache cannot be used, and is to be made again."""


class EngineCache:
    """Engines and kernels in `engine_folder()`. Raises GpuError if others may write there."""

    def __init__(self) -> None:
        self.folder = engine_folder()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            reason = _distrusted(self.folder.stat())
        except OSError as error:
            raise self._error(f"cannot be made ({error.strerror})") from error
        if reason:
            raise self._error(f"{reason}; engines are programs")

    def provide(self, key: Key, use: Callable[[bytes], T], make: Callable[[], tuple[bytes, T]]) -> T:
        """What fits a key, made where there is none, by one process at a time.

        Raises GpuError where the folder cannot be written to, or has no locks; or what `use` and `make` raise.
        `key`: all that it depends on; ``kind`` in it begins the file's name; `use`: opens what a file holds; raises
        `UnusableError` where that cannot be; `make`: makes what goes into the file, and what `use` would give.
        """
        path = self.path(key)
        written_ns = _written_ns(path)
        found = self._used(path, key, use)
        if found is None:
            with self._locked():
                if _written_ns(path) != written_ns:  # another process has just made it
                    found = self._used(path, key, use)
                if found is None:
                    content, found = make()
                    self._store(path, key, content)
        return found

    def path(self, key: Key) -> Path:
        """File for a key; another key has another one."""
        return self.folder / f"{key['kind']}-{hashlib.sha256(_line(key)).hexdigest()[:32]}{SUFFIX}"

    def _used(self, path: Path, key: Key, use: Callable[[bytes], T]) -> T | None:
        try:
            found = use(_read(path, key))
        except FileNotFoundError:
            _log.info("%s is made, for there is none for %s", path, dict(key))
            return None
        except UnusableError as error:
            _log.warning("%s is not used: %s; it is made again", path, error.what)
            return None
        try:
            os.utime(path)
        except OSError:  # of another owner, or on a read-only file system: this process removes no files there
            _log.debug("the last use of %s cannot be noted", path)
        return found

    def _store(self, path: Path, key: Key, content: bytes) -> None:
        """Keeps something where the disk has room, and removes what was not used for longest."""
        try:
            if path.is_symlink() or not path.is_file():  # a writer of whole files would write to where it leads
                path.unlink(missing_ok=True)
            with whole_file(path) as part:
                part.touch(0o600)
                part.chmod(0o600)
                part.write_bytes(_digest(key, content) + content)
        except OSError as error:
            _log.warning("%s cannot be written (%s): the next start makes it again", path, error.strerror)
            return
        for old in sorted(self.folder.glob(f"*{SUFFIX}"), key=_written_ns)[:-MOST_FILES]:
            _log.info("%s is removed: there are more than %d files", old, MOST_FILES)
            old.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes from building here until this one ends: two builds disturb each other's timings."""
        descriptor = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.folder / LOCK, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise self._error(f"cannot be written to, or locked ({error.strerror})") from error
        try:
            yield
        finally:
            os.close(descriptor)

    def _error(self, what: str) -> GpuError:
        cure = f"Let this user alone write to it (chmod 700 {self.folder}), or set XDG_CACHE_HOME to another."
        return GpuError(what, where=f"engine cache {self.folder}", cure=cure)


def engine_folder() -> Path:
    """The user's folder of engines, below ``XDG_CACHE_HOME`` or ``~/.cache``. Raises GpuError without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the XDG specification has relative ones ignored
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError as error:
            raise GpuError("this user has no home folder", where="engine cache", cure="Set XDG_CACHE_HOME.") from error
    return Path(base) / "scene_completion_ros" / "engines"


def _read(path: Path, key: Key) -> bytes:
    """The content. Raises FileNotFoundError; UnusableError if damaged, of another key or not trusted."""
    try:
        # Without waiting for the writer of a pipe that lies there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableError(f"it cannot be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        reason = _distrusted(state) if stat.S_ISREG(state.st_mode) else "is no file"
        if reason:
            raise UnusableError(f"it {reason}")
        digest, _, content = file.read().partition(b"\n")
    if digest + b"\n" != _digest(key, content):
        raise UnusableError("it is damaged, or was made for something else")
    return content


def _line(key: Key) -> bytes:
    return json.dumps(key, sort_keys=True, allow_nan=False).encode() + b"\n"


def _digest(key: Key, content: bytes) -> bytes:
    digest = hashlib.sha256(_line(key))
    digest.update(content)
    return digest.hexdigest().encode() + b"\n"


def _distrusted(state: os.stat_result) -> str:
    """Why a file or folder is not to be trusted: who could have written it; empty where it is."""
    if state.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {state.st_uid}, not to this one ({os.geteuid()})"
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by others (mode {stat.S_IMODE(state.st_mode):o})"
    return ""


def _written_ns(path: Path) -> int:
    """When a file was last written or used; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0
