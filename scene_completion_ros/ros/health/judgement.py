"""Judges what the node recorded: one status a part, whose message says what to do. Nothing here touches ROS.

Levels are OK, WARN and ERROR. STALE is left to whoever listens: diagnostic_aggregator sets it itself once messages
cease, and takes a group with one stale part for broken, which a node that was deactivated on purpose is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from scene_completion_ros.ros.health.inference_record import InferenceRecord
from scene_completion_ros.ros.health.process_facts import ProcessFacts

LARGEST_SHARE_OF_OPEN_FILES = 0.9
FULL_DETAIL_STAGES = ("latency", "total")  # the stages that the message names

# Reasons under which messages come to nothing in normal work.
ABOVE_RATE = "above largest_rate"
HARMLESS_DROPS = frozenset({"newer image arrived", "deactivated", "disabled", "reset", ABOVE_RATE})
# Where the others are reported; those not named here are the input's.
BAD_CAMERA_INFO = "bad CameraInfo"
NO_CAMERA_INFO = "no CameraInfo"
NO_MATCHING_CAMERA_INFO = "no CameraInfo of its time"  # there are others
CALIBRATION_DROPS = frozenset({NO_CAMERA_INFO, NO_MATCHING_CAMERA_INFO, BAD_CAMERA_INFO})
INFERENCE_DROPS = frozenset({"unusable camera", "internal error", "GPU failed"})


class Level(IntEnum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """How one part of the node is.

    Attributes:
        name: The part.
        level: How bad it is.
        message: One sentence or two: what is so, and what to do about it.
        values: The numbers behind it.
        cause: The part of the message that stays the same as long as the fault does; a new one is logged.
    """

    name: str
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)
    cause: str = ""


@dataclass(frozen=True)
class Drops:
    """Messages that came to nothing, by reason.

    Attributes:
        total: Since the node started.
        recent: In the last seconds.
        recent_s: How many seconds these are.
    """

    total: Mapping[str, int]
    recent: Mapping[str, int]
    recent_s: float

    def problems(self, reasons: frozenset[str]) -> str:
        """Recent drops for one of these reasons, in words; empty where there are none."""
        found = [f"{count} {reason}" for reason, count in sorted(self.recent.items()) if reason in reasons and count]
        return ", ".join(found)

    @property
    def of_input(self) -> frozenset[str]:
        """Reasons that are neither harmless nor reported elsewhere."""
        return frozenset(self.recent) - HARMLESS_DROPS - CALIBRATION_DROPS - INFERENCE_DROPS


def of_camera(what: str, camera: str) -> str:
    """Name of a part, or of a value, that there is once for each camera; without its name where there is only one."""
    return f"{what} {camera}".rstrip()


def lifecycle_status(state: str, problem: str, *, enabled: bool) -> Status:
    """The state of the node, and what kept it from the next one.

    Args:
        state: Label of the state, such as "active".
        problem: Why the last transition failed; empty where it did not.
        enabled: Images are completed, as far as `~/set_enabled` is concerned.
    """
    values = {"state": state, "enabled": str(enabled).lower()}
    if problem:
        return Status("lifecycle", Level.ERROR, f"{state}: the last transition failed: {problem}", values)
    if state == "active" and not enabled:
        cure = "call ~/set_enabled with data: true to go on"
        return Status("lifecycle", Level.OK, f"active, but disabled by ~/set_enabled: {cure}", values)
    hint = {
        "unconfigured": ": nothing is loaded; configure and activate it (ros2 lifecycle set)",
        "inactive": ": nothing is subscribed; activate it (ros2 lifecycle set)",
    }
    return Status("lifecycle", Level.OK, state + hint.get(state, ""), values)


def idle_status(name: str, state: str) -> Status:
    """A part that has nothing to do in a state in which the node was put on purpose."""
    return Status(name, Level.OK, f"nothing to do: the node is {state}", {"state": state})


def inference_status(record: InferenceRecord, drops: Drops, *, processed: int, unwanted: int) -> Status:
    """The model, and how long images take.

    Args:
        record: What the inference thread did.
        drops: Messages that came to nothing.
        processed: Images completed since the node started.
        unwanted: Images that nobody wanted completed.
    """
    models, times = record.models, record.times()
    values = {"images completed": str(processed), "images that nobody subscribed to": str(unwanted)}
    for camera, model in models.items():
        values |= {of_camera("model", camera): model.state, of_camera("engine", camera): model.engine}
    for stage, time_ms in times.items():
        values[f"{stage} ms"] = f"mean {time_ms.mean:.2f}, p95 {time_ms.p95:.2f}, max {time_ms.largest:.2f}"
    problems = drops.problems(INFERENCE_DROPS)
    unusable = {name or "this camera": model.error for name, model in models.items() if model.error}
    errors = [f"images of {name} cannot be completed: {error}" for name, error in unusable.items()]
    if errors:
        return Status("inference", Level.ERROR, "; ".join(errors), values)
    if problems:
        cure = "see the log, and report internal errors"
        message = f"images dropped in the last {drops.recent_s:.0f} s: {problems}; {cure}"
        return Status("inference", Level.ERROR, message, values)
    said = [f"{stage} {times[stage].mean:.1f} ms" for stage in FULL_DETAIL_STAGES if stage in times]
    states = [f"{name} {model.state}".strip() for name, model in models.items()]
    return Status("inference", Level.OK, ", ".join([*states, *said]), values)


def outputs_status(subscribers: Mapping[str, int], warnings: Mapping[str, int], result_age_s: float | None) -> Status:
    """Who listens, and what could not be published.

    Args:
        subscribers: Their number, by topic.
        warnings: How often was warned of something, by key: what was not published is counted under its topic.
        result_age_s: Seconds since the last result was published; None before the first.
    """
    values = {f"subscribers of {topic}": str(count) for topic, count in subscribers.items()}
    values["seconds since the last result"] = "none yet" if result_age_s is None else f"{result_age_s:.2f}"
    values |= {f"warnings: {key}": str(count) for key, count in sorted(warnings.items())}
    if not any(subscribers.values()):
        message = "nobody subscribed: images are not completed until somebody subscribes to ~/voxels or another result"
        return Status("outputs", Level.OK, message, values)
    wanted = sum(1 for count in subscribers.values() if count)
    return Status("outputs", Level.OK, f"{wanted} of {len(subscribers)} topics have subscribers", values)


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
