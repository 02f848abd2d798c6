"""Judges the fusion of successive images, as `health` judges the rest; nothing here touches ROS."""

from __future__ import annotations

from scene_completion_ros.ros.health.fusion_record import FusionReport
from scene_completion_ros.ros.health.judgement import Level, Status

NAME = "fusion"


def fusion_status(report: FusionReport, now_s: float, recent_s: float, *, wanted: bool) -> Status:
    """The map of earlier images, and whether images are joined with it.

    Args:
        report: What the inference thread did.
        now_s: Now, by `time.perf_counter`.
        recent_s: How long an image that had to do without the map is a warning, seconds.
        wanted: Parameter `temporal_fusion`.
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
        return Status(NAME, Level.OK, "off (parameter temporal_fusion)", values)
    if report.alone_s is not None and now_s - report.alone_s <= recent_s:
        message = (
            f"the voxels of {report.alone} images were published without those of earlier ones, the last "
            f"{now_s - report.alone_s:.1f} s ago: {report.why_alone}"
        )
        return Status(NAME, Level.WARN, message, values)
    if not report.joined:
        return Status(NAME, Level.OK, "waiting for the first image", values)
    return Status(NAME, Level.OK, f"map of {report.age_s:.1f} s, {report.map_mb:.0f} MB", values)
