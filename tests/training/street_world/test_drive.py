from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scene_completion_training.street_world.camera_rig import LEFT, RIGHT
from scene_completion_training.street_world.drive import StreetDrive

from scene_completion_ros.sequences.posed_sequence import PosedSequence


def test_sequence_folder(drive: StreetDrive, tmp_path: Path) -> None:
    drive.sequence(("lidar", "depth", "label")).save(tmp_path / "sequence")
    loaded = PosedSequence.load(tmp_path / "sequence")
    assert len(loaded) == 3
    assert loaded.metric_scale
    assert loaded.provenance["role"] == "validation"
    assert loaded.provenance["seed"] == 1000
    assert np.abs(loaded.image(1, RIGHT).astype(int) - drive.image(1, RIGHT)).mean() < 4.0
    assert np.array_equal(loaded.lidar(2), drive.lidar(2))
    assert np.array_equal(loaded.asset(0, "depth"), drive.view(0).depth)
    assert np.array_equal(loaded.asset(0, "label"), drive.view(0).label)
    assert loaded.asset(0, "voxel_label") is None
    baseline = loaded.world_from_camera(0, LEFT).translation - loaded.world_from_camera(0, RIGHT).translation
    assert np.linalg.norm(baseline) == pytest.approx(0.54)
