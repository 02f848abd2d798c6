"""The student behind the deployed one, as recorded and as judged: which of the two was right, and what it costs."""

import math
import time
from dataclasses import dataclass, field

from scene_completion_ros.evaluation.label_free import Comparison
from scene_completion_ros.evaluation.student_comparison import ComparisonReport
from scene_completion_ros.ros.health.judgement import Level, Record, Status

NAME = "shadow"
_OLDER = 0.9  # weight of the times before in the mean time of an image
_LARGEST_SKIPPED = 0.5  # share of the images asked for


@dataclass(frozen=True)
class ShadowReport:
    """All of it at one moment; times are those of `time.perf_counter`."""

    problem: str = ""  # why there is no second student; empty where there is one, or none is named
    students: tuple[str, str] = ("", "")  # name and folder of the student of `bundle`, and of that of `shadow.bundle`
    completed: int = 0  # images that the shadow completed, too
    skipped: int = 0  # images that it should have completed and did not, or that were not compared
    why_skipped: str = ""  # why the last one was
    failed: int = 0  # images at which it failed
    why_failed: str = ""  # why the last time
    failed_s: float | None = None  # when that was
    without_pose: str = ""  # why the last image that had no pose had none
    milliseconds: float = math.nan  # what an image costs it, a mean of the last ones
    found: ComparisonReport = field(default_factory=ComparisonReport)  # how the two compare


class ShadowRecord(Record[ShadowReport]):
    """Written by the inference thread, the comparison and whoever prepares the second student."""

    def __init__(self) -> None:
        super().__init__(ShadowReport())

    def began(self, first: str, second: str) -> None:
        """Two students are compared from now on."""
        with self._lock:
            self._report = ShadowReport(students=(first, second))

    def refused(self, problem: str) -> None:
        """The second student cannot be used; why."""
        with self._lock:
            self._report = ShadowReport(problem=problem)

    def completed(self, milliseconds: float) -> None:
        """The shadow completed an image."""
        with self._lock:
            before = self._report.milliseconds
            mean = milliseconds if math.isnan(before) else _OLDER * before + (1.0 - _OLDER) * milliseconds
            self._change(counted="completed", milliseconds=mean)

    def skipped(self, why: str) -> None:
        """An image was left out."""
        self._change(counted="skipped", why_skipped=why)

    def failed(self, why: str) -> bool:
        """The shadow failed; whether for another reason than the last time."""
        with self._lock:
            new = why != self._report.why_failed
            self._change(counted="failed", why_failed=why, failed_s=time.perf_counter())
        return new

    def without_pose(self, why: str) -> None:
        """Nothing said where the robot was at an image."""
        self._change(without_pose=why)

    def compared(self, found: ComparisonReport) -> None:
        """How the students compare by now."""
        self._change(found=found)


def shadow_status(report: ShadowReport, deployed: str, now_s: float, recent_s: float, *, every: int) -> Status:
    """The two students, which one was right, and what the shadow costs.

    `deployed`: name and folder of the deployed student; `now_s`: now, by `time.perf_counter`; `recent_s`: how long a
    failure is a warning, seconds; `every`: parameter `shadow.every`.
    """
    values = {"deployed": deployed}
    if report.problem:
        return Status(NAME, Level.WARN, f"there is no second student: {report.problem}", values)
    if not report.students[1]:
        return Status(NAME, Level.OK, "there is no second student (parameter shadow.bundle)", values)
    second_is_deployed = deployed == report.students[1]
    values |= {"shadow": report.students[0 if second_is_deployed else 1]} | _numbers(report, second_is_deployed)
    if report.failed_s is not None and now_s - report.failed_s <= recent_s:
        message = f"the shadow failed at {report.failed} images: {report.why_failed}. The deployed student goes on"
        return Status(NAME, Level.WARN, message, values)
    if not every:
        return Status(NAME, Level.OK, "off (parameter shadow.every)", values)
    asked = report.completed + report.skipped
    if asked and report.skipped > _LARGEST_SKIPPED * asked:
        cure = "Set largest_rate to less than the machine can do, or shadow.every to more"
        message = (
            f"the shadow skipped {report.skipped} of {asked} images, the last because {report.why_skipped}. {cure}"
        )
        return Status(NAME, Level.WARN, message, values)
    return Status(NAME, Level.OK, _outcome(report, second_is_deployed), values)


def _numbers(report: ShadowReport, second_is_deployed: bool) -> dict[str, str]:
    found = report.found
    values = {
        "images completed by the shadow": str(report.completed),
        "images skipped": str(report.skipped),
        "ms an image": f"{report.milliseconds:.1f}",
        "images compared": str(found.frames),
        "occupied voxels alike": f"{found.occupied_alike:.3f}",
        "depth alike": f"{found.depth_alike:.3f}",
        "images judged by later ones": str(found.judged),
        "voxels judged": str(found.voxels),
    }
    if report.why_skipped:
        values["last skipped because"] = report.why_skipped
    if report.why_failed:
        values["last failed because"] = report.why_failed
    if report.without_pose:
        values["last without a pose because"] = report.without_pose
    for one in found.comparisons:
        name = one.measure.replace("_", " ")
        deployed, shadow = (one.new, one.old) if second_is_deployed else (one.old, one.new)
        low, high = _gain_of_shadow(one, second_is_deployed)
        values |= {f"{name} of the deployed": f"{deployed:.4f}", f"{name} of the shadow": f"{shadow:.4f}"}
        values[f"{name}: gain of the shadow"] = f"{low:+.4f} to {high:+.4f} with 90 %, {one.places} places"
    return values


def _gain_of_shadow(one: Comparison, second_is_deployed: bool) -> tuple[float, float]:
    return (-one.high, -one.low) if second_is_deployed else (one.low, one.high)


def _outcome(report: ShadowReport, second_is_deployed: bool) -> str:
    found = report.found
    if not found.frames:
        return "waiting for images that both students complete"
    alike = f"the students agree on {100.0 * found.occupied_alike:.0f} % of occupied voxels"
    if not found.voxels:
        if report.without_pose:
            missing = f"no image has a pose ({report.without_pose})"
        elif found.judged:
            missing = f"they see the same in {100.0 * found.depth_alike:.0f} % of the image only"
        else:
            missing = "the robot has to drive on, and transform.source has to say where it is in odometry.frame"
        return f"{alike}; nothing says yet which one is right: {missing}"
    if found.better is None:
        return f"{alike}; neither is better for sure after {found.judged} images"
    which = "shadow" if (found.better == 1) != second_is_deployed else "deployed student"
    gains = []
    for one in found.comparisons:
        low, high = _gain_of_shadow(one, second_is_deployed)
        gains.append(f"{one.measure.replace('_', ' ')} {low:+.3f} to {high:+.3f}")
    return f"{alike}; the {which} is better, after {found.judged} images; gain of the shadow: {', '.join(gains)}"
