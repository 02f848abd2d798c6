"""A drive as a sequence on disk and as a bag."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, VoxelGrid
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data.module import SequenceSource, load_sequence
from scene_completion_training.data.prepared import load_prepared, prepare_sequence
from scene_completion_training.data.voxel_evidence import POINT_UNIT, FusionSettings
from scene_completion_worlds.street.camera_rig import LEFT, RIGHT, make_rig
from scene_completion_worlds.street.drive import StreetDrive


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


def test_a_rendered_town_lends_its_exact_voxels(tmp_path: Path) -> None:
    """The samples are those of the town; insides and what is below the ground are left out."""
    grid = VoxelGrid((0.0, -6.4, -2.4), 0.4, (64, 32, 12), "forward")
    drive = StreetDrive(1, 2, replace(make_rig(208, 63), grid=grid), supersampling=1)
    drive.sequence(("voxels", "depth")).save(tmp_path / "town")
    sequence = load_sequence(tmp_path, SequenceSource("town"))
    files = prepare_sequence(sequence, tmp_path, settings=FusionSettings(kept=4000), exact=True, workers=1)
    frame = load_prepared(files[0])
    seen = drive.view(0).depth
    kept = frame.depths["left"]
    assert np.isin(kept[kept > 0], seen[np.isfinite(seen)].astype(np.float16)).all()
    assert (kept == 0).mean() == pytest.approx(np.mean(~np.isfinite(seen)), abs=0.02)  # the sky
    truth = drive.truth(0)
    ahead = OPTICAL_FROM_FORWARD.inverse().apply(frame.points * POINT_UNIT)
    index, inside = grid.index_of(np.asarray(ahead))
    assert np.asarray(inside).all()
    x, y, z = np.asarray(index).T
    assert np.array_equal(frame.target > 0, truth.occupied[x, y, z]) and set(np.unique(frame.target)) == {0, 255}
    assert not truth.interior[x, y, z].any() and truth.known[x, y, z].all()
    assert 500 < (frame.target > 0).sum() <= 2000 and (frame.target == 0).sum() == 2000
    with pytest.raises(SequenceError, match="ground truth"):
        prepare_sequence(drive.sequence(()), tmp_path, exact=True)
