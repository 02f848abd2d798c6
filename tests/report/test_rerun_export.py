from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.report.rerun_export import RerunRecording
from tests.report.scenes import CAMERA, photo, street


def test_without_the_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(SceneCompletionError, match=r"rerun-sdk is not installed.*scene_completion_ros\[rerun\]"):
        RerunRecording(tmp_path / "a.rrd")
    assert not (tmp_path / "a.rrd").exists()


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
