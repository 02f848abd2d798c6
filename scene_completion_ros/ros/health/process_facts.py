"""Memory, threads and open files of this process, where the system tells them."""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class ProcessFacts:
    """What the process uses; None where the system does not say.

    Attributes:
        resident_mb: Memory in RAM, 10^6 bytes: own_mb, shared_mb and pages of files together.
        own_mb: Of it, what nobody else has (anonymous pages: heaps, stacks).
        shared_mb: Of it, shared memory (the segments that the middleware hands messages over in).
        peak_mb: The most it ever was.
        threads: Number of threads.
        open_files: Open descriptors, sockets included.
        open_files_limit: How many may be open.
    """

    resident_mb: float | None = None
    own_mb: float | None = None
    shared_mb: float | None = None
    peak_mb: float | None = None
    threads: int | None = None
    open_files: int | None = None
    open_files_limit: int | None = None


def process_facts(folder: Path = PROCESS) -> ProcessFacts:
    """Read the facts from a folder that is made like /proc/self; what is missing there is None."""
    lines: dict[str, str] = {}
    open_files = None
    with suppress(OSError):
        text = (folder / "status").read_text(encoding="utf-8", errors="replace")
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    with suppress(OSError):
        open_files = len(list((folder / "fd").iterdir()))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ProcessFacts(
        resident_mb=_megabytes(lines.get("VmRSS")),
        own_mb=_megabytes(lines.get("RssAnon")),
        shared_mb=_megabytes(lines.get("RssShmem")),
        peak_mb=_megabytes(lines.get("VmHWM")),
        threads=int(lines["Threads"]) if "Threads" in lines else None,
        open_files=open_files,
        open_files_limit=None if limit == resource.RLIM_INFINITY else limit,
    )


def _megabytes(entry: str | None) -> float | None:
    """Of an entry such as "  1234 kB", which counts 1024 bytes."""
    return None if entry is None else int(entry.split()[0]) * 1024 / 1e6
