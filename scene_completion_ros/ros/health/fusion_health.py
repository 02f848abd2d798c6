"""The fusion of successive images, as recorded and as judged: its map, what went into it, what had to do without."""

import threading
import time
from dataclasses import dataclass, replace

from scene_completion_ros.ros.health.judgement import Level, Status

NAME = "fusion"


@dataclass(frozen=True)
class FusionReport:
    """All of it at one moment; times are those of `time.perf_counter`."""

    joined: int = 0  # images (or sets of several cameras) joined with the map since the node was configured
    alone: int = 0  # those published without being joined
    why_alone: str = ""  # why the last one was, with the cure; empty where none was
    alone_s: float | None = None  # when that was
    started: int = 0  # how often the map was started anew, the first time not counted
    why_started: str = ""  # why it was the last time
    started_s: float | None = None  # when that was
    map_voxels: int = 0  # voxels that the map holds; 0 where there is none
    map_mb: float = 0.0  # memory of the map, megabytes
    age_s: float = 0.0  # seconds between the stamps of the first and the last image in the map
    updated: int = 0  # voxels that the last image had something to say about
    entered: int = 0  # voxels that became new before it because the robot moved


class FusionRecord:
    """Written by the inference thread, read by others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._report = FusionReport()

    @property
    def report(self) -> FusionReport:
        """What is so now."""
        with self._lock:
            return self._report

    def joined(self, *, map_voxels: int, map_mb: float, age_s: float, updated: int, entered: int) -> None:
        """An image was joined with the map."""
        with self._lock:
            self._report = replace(
                self._report,
                joined=self._report.joined + 1,
                map_voxels=map_voxels,
                map_mb=map_mb,
                age_s=age_s,
                updated=updated,
                entered=entered,
            )

    def alone(self, why: str) -> None:
        """An image was not joined."""
        with self._lock:
            alone = self._report.alone + 1
            self._report = replace(self._report, alone=alone, why_alone=why, alone_s=time.perf_counter())

    def started(self, why: str) -> None:
        """The map forgot everything."""
        with self._lock:
            started = self._report.started + 1
            self._report = replace(self._report, started=started, why_started=why, started_s=time.perf_counter())

    def released(self) -> None:
        """There is no map any more."""
        with self._lock:
            self._report = replace(self._report, map_voxels=0, map_mb=0.0, age_s=0.0, updated=0, entered=0)


def fusion_status(report: FusionReport, now_s: float, recent_s: float, *, wanted: bool) -> Status:
    """The map of earlier images, and whether images are joined with it.

    `now_s`: now, by `time.perf_counter`; `recent_s`: how long an image that had to do without the map is a warning,
    seconds; `wanted`: parameter `fusion.enabled`.
    """
    values = {
        "images joined": str(report.joined),
        "images published alone": str(report.alone),
        "map voxels": str(report.map_voxels),
        "map MB": f"{report.map_mb:.1f}",
        "map age s": f"{report.age_s:.1f}",
        "voxels updated by the last image": str(report.updated),
        "voxels that came into the map before it": str(report.entered),
        "times started anew": str(report.started),
    }
    if report.started_s is not None:
        values["last started anew"] = f"{now_s - report.started_s:.1f} s ago: {report.why_started}"
    if report.alone_s is not None:
        values["last published alone"] = f"{now_s - report.alone_s:.1f} s ago: {report.why_alone}"
    if not wanted:
        return Status(NAME, Level.OK, "off (parameter fusion.enabled)", values)
    if report.alone_s is not None and now_s - report.alone_s <= recent_s:
        message = (
            f"the node published the voxels of {report.alone} images without those of earlier ones, the last "
            f"{now_s - report.alone_s:.1f} s ago: {report.why_alone}"
        )
        return Status(NAME, Level.WARN, message, values)
    if not report.joined:
        return Status(NAME, Level.OK, "waiting for the first image", values)
    return Status(NAME, Level.OK, f"map of {report.age_s:.1f} s, {report.map_mb:.0f} MB", values)
