"""One door for recordings of every kind, and for their truth."""

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences import opening
from scene_completion_ros.sequences.kitti import SEMANTIC_KITTI_GRID
from scene_completion_ros.sequences.opening import depth_truth, holds_voxels, open_recording, voxel_truth
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES, Frame, PosedSequence, Source
from scene_completion_ros.sequences.rigs import reference_camera

CAMERA = Camera(fx=4.0, fy=4.0, cx=3.5, cy=1.5, width=8, height=4)


def still(name: str, provenance: dict[str, object] | None = None) -> PosedSequence:
    identity = RigidTransform.identity()
    return PosedSequence(
        name=name,
        cameras={"front": CAMERA},
        rig_from_camera={"front": identity},
        frames=[Frame(0, {"front": lambda: np.zeros((4, 8, 3), np.uint8)}, identity)],
        pose_source="by hand",
        provenance=provenance or {},
    )


def test_sequence_folders_and_towns_are_opened_and_what_nobody_recognises_is_refused(tmp_path: Path) -> None:
    still("town").save(tmp_path / "town" / "sequence")
    assert open_recording(tmp_path / "town").name == open_recording(tmp_path / "town" / "sequence").name == "town"
    with pytest.raises(SequenceError, match=r"is no recording.*sequence\.json.*KITTI-360.*calib\.txt.*bag"):
        open_recording(tmp_path)
    with pytest.raises(SequenceError, match="no such file or folder"):
        open_recording(tmp_path / "nothing")


def test_windows_of_kitti_have_official_voxels(shared_data: Path) -> None:
    sequence = open_recording(shared_data / "kitti_windows" / "sequences" / "06")
    assert set(sequence.cameras) == {"image_2", "image_3"} and reference_camera(sequence) == "image_2"
    assert holds_voxels(sequence) and not holds_voxels(sequence, 1)
    truth = voxel_truth(sequence, 0)
    assert (truth.grid, truth.source) == (SEMANTIC_KITTI_GRID, "labelled LiDAR")
    # The camera's place in the velodyne frame, from P2 and Tr of calib.txt by hand: inverse(Tr) applied to -K^-1 p4.
    np.testing.assert_allclose(truth.grid_from_camera.translation, [0.3274, 0.0563, -0.0765], atol=1e-3)
    assert int(truth.counted.sum()) == 399_953
    assert voxel_truth(sequence, 1) is None
    depth = depth_truth(sequence, 1)
    assert depth is not None and (depth.depth > 0.0).mean() > 0.02


def test_bags_with_and_without_poses(shared_data: Path) -> None:
    bag = shared_data / "rosbag2" / "kitti04_stereo_lidar_10f"
    driven = open_recording(bag)
    assert len(driven.cameras) == 2 and driven.travelled_distance() > 5.0
    unrelated = open_recording(bag, poses=UNKNOWN_POSES)
    assert len(unrelated.cameras) == 1 and unrelated.travelled_distance() == 0.0
    assert len(unrelated) == len(driven) and unrelated.pose_source == UNKNOWN_POSES
    (camera,) = unrelated.cameras
    np.testing.assert_array_equal(unrelated.image(3, camera), driven.image(3, camera))


def test_a_source_of_another_package_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Source("a folder of mine", lambda path: path.suffix == ".mine", lambda path, poses: still(f"{poses}"))
    monkeypatch.setattr(opening, "known_sources", lambda: (mine, *opening.SOURCES))
    assert open_recording(tmp_path / "drive.mine", poses="slow").name == "slow"
