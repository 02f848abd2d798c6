from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.report.rerun_export import RerunRecording
from tests.report.scenes import CAMERA, NAMES, photo, street


def test_a_recording_holds_what_was_added(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    recording = RerunRecording(tmp_path / "deep" / "a.rrd")
    scan = np.random.default_rng(0).uniform(0, 4, (1000, 3)).astype(np.float32)
    for i in range(2):
        depth = np.full((80, 160), 4.0, np.float32)
        recording.add_frame(street(stamp_ns=i), photo(), depth, camera=CAMERA, lidar_grid=scan)
    recording.close()
    data = (tmp_path / "deep" / "a.rrd").read_bytes()
    assert data[:3] == b"RRF"
    for entity in (b"/grid/voxels", b"/grid/lidar", b"/grid/camera/depth", b"/image"):
        assert entity in data


def test_names_and_colours_of_classes_are_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rerun = pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    said = []
    log = rerun.RecordingStream.log
    monkeypatch.setattr(
        rerun.RecordingStream, "log", lambda stream, *given, **more: (said.append(given), log(stream, *given, **more))
    )
    for classes in (False, True):
        said.clear()
        recording = RerunRecording(tmp_path / f"{classes}.rrd")
        for i in range(2):
            recording.add_frame(street(classes=classes, stamp_ns=i))
        recording.close()
        contexts = [entity for entity in said if isinstance(entity[1], rerun.AnnotationContext)]
        assert len(contexts) == classes
        boxes = [archetype for path, archetype in said if path == "grid/voxels"]
        assert all((box.class_ids is not None) == classes for box in boxes)
    (pairs,) = contexts[0][1].context.as_arrow_array().to_pylist()
    assert [(pair["class_id"], pair["class_description"]["info"]["label"]) for pair in pairs] == [*enumerate(NAMES)]
