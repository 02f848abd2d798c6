"""What training refuses, and the names it is refused by."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_ros.sequences.rigs import check_for_training


def at(x: float, z: float = 0.0) -> RigidTransform:
    return RigidTransform(np.eye(3), np.array([x, 0.0, z]))


def drive(*, baseline: float = 0.5, step: float = 1.0, cameras: int = 2) -> PosedSequence:
    names = ["left", "right"][:cameras]
    images = {name: lambda: np.zeros((48, 64, 3), np.uint8) for name in names}
    return PosedSequence(
        name="drive",
        cameras=dict.fromkeys(names, Camera(50.0, 50.0, 31.5, 23.5, 64, 48)),
        rig_from_camera={name: at(baseline * index) for index, name in enumerate(names)},
        frames=[Frame(index * 10, images, at(0.0, step * index)) for index in range(3)],
        pose_source="tf",
    )


def test_a_sound_sequence_passes(tmp_path: Path) -> None:
    check_for_training(drive(), "somewhere")
    check_for_training(drive(cameras=1), "somewhere")
    check_for_training(PosedSequence.load(drive().save(tmp_path / "saved")), "somewhere")


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (dataclasses.replace(drive(), metric_scale=False), r"/data/drive: scale: unknown\. .*--camera-height"),
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
    for images, swapped in ((shown, False), (dict(zip(shown, reversed(shown.values()), strict=True)), True)):
        frames = [dataclasses.replace(frame, images=images) for frame in sound.frames]
        sequence = dataclasses.replace(sound, cameras=cameras, frames=frames)
        if not swapped:
            check_for_training(sequence, "somewhere")
            continue
        with pytest.raises(SequenceError, match="swapped: left shows what right should"):
            check_for_training(sequence, "somewhere")
