"""One door for recordings of every kind, and for their truth."""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.kitti import SEMANTIC_KITTI_GRID
from scene_completion_ros.sequences.opening import depth_truth, holds_voxels, open_recording, truth_later, voxel_truth
from scene_completion_ros.sequences.posed_sequence import (
    UNKNOWN_POSES,
    Frame,
    PosedSequence,
    check_for_training,
    reference_camera,
)


def test_sequence_folders_and_towns_are_opened_and_unknown_folders_are_refused(tmp_path: Path) -> None:
    drive().save(tmp_path / "town" / "sequence")
    assert open_recording(tmp_path / "town").name == open_recording(tmp_path / "town" / "sequence").name == "drive"
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


def at(x: float, z: float = 0.0) -> RigidTransform:
    return RigidTransform(np.eye(3), np.array([x, 0.0, z]))


def drive(name: str = "drive", *, baseline: float = 0.5, step: float = 1.0, cameras: int = 2) -> PosedSequence:
    names = ["left", "right"][:cameras]
    images = {name: lambda: np.zeros((48, 64, 3), np.uint8) for name in names}
    return PosedSequence(
        name=name,
        cameras=dict.fromkeys(names, Camera(50.0, 50.0, 31.5, 23.5, 64, 48)),
        rig_from_camera={name: at(baseline * index) for index, name in enumerate(names)},
        frames=[Frame(index * 10, images, at(0.0, step * index)) for index in range(3)],
        pose_source="tf",
    )


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (dataclasses.replace(drive(), metric_scale=False), r"/data/drive: scale: unknown\. .*in metres"),
        (drive(baseline=0.0), "/data/drive: zero baseline: left and right stand at one place"),
        (drive(cameras=1, step=0.001), "/data/drive: zero baseline: one camera that moves 0.00 m in 3 frames"),
    ],
)
def test_what_is_wrong_is_named(sequence: PosedSequence, message: str) -> None:
    with pytest.raises(SequenceError, match=message):
        check_for_training(sequence, "/data/drive")


def test_cameras_that_look_elsewhere_may_share_their_centre() -> None:
    sequence = drive(baseline=0.0)
    sequence.rig_from_camera["right"] = RigidTransform(np.diag([-1.0, 1.0, -1.0]), np.zeros(3))
    check_for_training(sequence, "somewhere")


def test_a_missing_image_file_and_a_missing_camera_are_named(tmp_path: Path) -> None:
    folder = drive().save(tmp_path / "saved")
    (folder / "images" / "right" / "000001.png").unlink()
    with pytest.raises(SequenceError, match=r"frame 1, camera 'right': image file .*000001\.png is missing"):
        check_for_training(PosedSequence.load(folder), str(folder))
    document = json.loads((folder / "sequence.json").read_text())
    del document["frames"][2]["images"]["left"]
    del document["frames"][1]["images"]["right"]
    (folder / "sequence.json").write_text(json.dumps(document))
    with pytest.raises(SequenceError, match="frame 1: no image of right"):
        check_for_training(PosedSequence.load(folder), str(folder))


def test_a_car_whose_poses_have_another_convention_is_refused() -> None:
    """Axes of a vehicle (x forward), or poses the wrong way round: the car drives sideways, or backwards."""
    ahead = dataclasses.replace(drive(), provenance={"dataset": "KITTI raw"})
    check_for_training(ahead, "somewhere")
    for turned, degrees in ((lambda pose: at(pose.translation[2]), 90), (RigidTransform.inverse, 180)):
        frames = [dataclasses.replace(frame, world_from_rig=turned(frame.world_from_rig)) for frame in ahead.frames]
        with pytest.raises(SequenceError, match=f"the car drives at {degrees} degrees to where left looks"):
            check_for_training(dataclasses.replace(ahead, frames=frames), "somewhere")
    unrelated = [dataclasses.replace(frame, world_from_rig=at(0.0)) for frame in ahead.frames]
    check_for_training(dataclasses.replace(ahead, frames=unrelated), "somewhere")


def test_a_pair_with_swapped_folders_is_refused() -> None:
    """What the left camera sees at column u lies at u - 8 in the right one."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 42), np.uint8)
    town = cv2.cvtColor(cv2.resize(noise, (336, 240), interpolation=cv2.INTER_NEAREST), cv2.COLOR_GRAY2RGB)
    shown = {"left": lambda: town[:, :320], "right": lambda: town[:, 8:328]}
    sound = drive()
    cameras = dict.fromkeys(shown, Camera(250.0, 250.0, 159.5, 119.5, 320, 240))
    swapped = dict(zip(shown, reversed(shown.values()), strict=True))
    refused = pytest.raises(SequenceError, match="swapped: left shows what right should")
    for images, outcome in ((shown, nullcontext()), (swapped, refused)):
        frames = [dataclasses.replace(frame, images=images) for frame in sound.frames]
        with outcome:
            check_for_training(dataclasses.replace(sound, cameras=cameras, frames=frames), "somewhere")


def test_voxels_of_the_first_frame_are_where_they_were_for_a_later_one(shared_data: Path) -> None:
    """Six frames on, a labelled window has the same voxels in the world; what the grid did not hold is unknown."""
    sequence = open_recording(shared_data / "kitti_windows/sequences/04")
    first, later = voxel_truth(sequence, 0), truth_later(sequence, 6)
    name = reference_camera(sequence)

    def places(truth: VoxelTruth, wanted: np.ndarray, frame: int) -> np.ndarray:
        return sequence.world_from_camera(frame, name).apply(truth.centres(wanted).astype(np.float64))

    step = round((later.grid.origin[0] - first.grid.origin[0]) / 0.2)
    assert step > 10 and not later.known[-step:].any() and later.known[:-step].any()
    for one, other in ((first.occupied, later.occupied), (first.known, later.known)):
        kept = one.copy()
        kept[:step] = False
        np.testing.assert_allclose(places(later, other, 6), places(first, kept, 0), atol=1e-3)
    np.testing.assert_allclose(later.grid_from_camera.translation[0] - later.grid.origin[0], 0.0, atol=0.4)
    assert later.in_view.mean() > 0.2 and later.visible is not None and later.visible[later.counted].mean() > 0.1
