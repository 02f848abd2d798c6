"""Memory, threads and open files of this process, where the system tells them, and whether they are too many."""

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scene_completion_ros.ros.health.judgement import Level, Status

PROCESS = Path("/proc/self")
LARGEST_SHARE_OF_OPEN_FILES = 0.9


@dataclass(frozen=True)
class ProcessFacts:
    """What the process uses; None where the system does not say."""

    resident_mb: float | None = None  # memory in RAM, 10^6 bytes: own_mb, shared_mb and pages of files together
    own_mb: float | None = None  # of it, what nobody else has (anonymous pages: heaps, stacks)
    shared_mb: float | None = None  # of it, shared memory (the segments that the middleware hands messages over in)
    peak_mb: float | None = None  # the most it ever was
    threads: int | None = None
    open_files: int | None = None  # open descriptors, sockets included
    open_files_limit: int | None = None  # how many may be open


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


def memory_status(facts: ProcessFacts) -> Status:
    """Memory, threads and open files of the process."""
    found = {
        "resident MB": None if facts.resident_mb is None else f"{facts.resident_mb:.1f}",
        "own MB": None if facts.own_mb is None else f"{facts.own_mb:.1f}",
        "shared MB": None if facts.shared_mb is None else f"{facts.shared_mb:.1f}",
        "peak resident MB": None if facts.peak_mb is None else f"{facts.peak_mb:.1f}",
        "threads": facts.threads,
        "open files": facts.open_files,
        "open files allowed": facts.open_files_limit,
    }
    values = {name: str(value) for name, value in found.items() if value is not None}
    limit = facts.open_files_limit
    if facts.open_files and limit and facts.open_files > LARGEST_SHARE_OF_OPEN_FILES * limit:
        message = f"{facts.open_files} of {limit} files are open: raise the limit (ulimit -n) and report this"
        return Status("memory", Level.WARN, message, values)
    if facts.resident_mb is None:
        return Status("memory", Level.OK, "this system does not tell", values)
    return Status("memory", Level.OK, f"{facts.resident_mb:.0f} MB resident", values)
