"""Which recordings and frames of them are scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation import occupancy_run
from scene_completion_training.evaluation.occupancy_run import RunSettings, evaluate, lidar_frames, open_recording
from tests.training.evaluation.one_wall import Wall, make_street


def test_frames_that_have_all_scans_ahead(street: PosedSequence) -> None:
    assert list(lidar_frames(street, RunSettings(scans=4, every=2))) == [0, 2, 4, 6]  # frame 6 has scans 6..9
    assert list(lidar_frames(street, RunSettings(scans=20, every=2))) == [0]
    assert list(lidar_frames(replace(street, rig_from_sensor={}), RunSettings(scans=4))) == []


def test_a_recording_without_any_truth_is_refused(street: PosedSequence) -> None:
    with pytest.raises(SequenceError, match="no frame"):
        evaluate([make_street(assets=())], lambda sequence: [Wall()], RunSettings())


def test_recordings_are_recognised(
    street: PosedSequence, tmp_path: Path, synthetic_drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    street.save(tmp_path / "town" / "sequence")
    assert open_recording(tmp_path / "town").name == open_recording(tmp_path / "town" / "sequence").name == "one_wall"
    assert set(open_recording(synthetic_drive).cameras) == {"image_2", "image_3"}
    monkeypatch.setattr(occupancy_run, "kitti_360", lambda root, drive: (root, drive))
    found: object = open_recording(tmp_path / "root" / "data_2d_raw" / "some_drive")
    assert found == (tmp_path / "root", "some_drive")
