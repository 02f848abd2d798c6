"""Ground truth of folders, found by stamp: of the street world's format, and of KITTI windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.scoring import SequenceTruth
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence

CAMERA = Camera(fx=4.0, fy=4.0, cx=3.5, cy=1.5, width=8, height=4)
START_NS, STEP_NS = 1_700_000_000_000_000_000, 100_000_000
SHAPE = (2, 2, 3)
IDENTITY = RigidTransform(np.eye(3), np.zeros(3))


def write_folder(folder: Path, *, around: str = "left", assets: bool = True) -> Path:
    """Two frames with voxels and depth of the camera `left`; their labels say their number."""
    flags = np.ones(SHAPE, dtype=np.uint8)
    frames = []
    for number in range(2):
        label = np.zeros(SHAPE, dtype=np.uint8)
        label[0, 0] = number + 1
        depth = np.full((CAMERA.height, CAMERA.width), 7.0 + number, dtype=np.float32)
        held: dict[str, Any] = {"voxel_label": label, "voxel_flags": flags, "depth": depth}
        frames.append(
            Frame(
                START_NS + number * STEP_NS,
                {name: lambda: np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8) for name in ("left", "right")},
                IDENTITY,
                {name: (lambda value=value: value) for name, value in held.items()} if assets else {},
            )
        )
    sequence = PosedSequence(
        name="case",
        cameras={"right": CAMERA, "left": CAMERA},
        rig_from_camera={"right": IDENTITY, "left": IDENTITY},
        frames=frames,
        pose_source="by hand",
        provenance={
            "voxel_grid": {"origin": [0, -0.2, -0.3], "voxel_size": 0.2, "shape": list(SHAPE), "around": around}
        },
    )
    return sequence.save(folder)


def test_a_frame_is_found_by_its_stamp(tmp_path: Path) -> None:
    source = SequenceTruth(write_folder(tmp_path / "case"), offset_ns=3_000_000_000)
    assert (source.name, source.camera) == ("case", "left")
    second_ns = START_NS + STEP_NS + 3_000_000_000
    for shift_ns, found in (
        (0, True),
        (5_000_000, True),
        (-5_000_000, True),
        (5_000_001, False),
        (-STEP_NS // 2, False),
    ):
        truth = source.at(second_ns + shift_ns, "any")
        assert (truth is not None) == found
        if truth is not None:
            assert (truth.depth.depth == 8.0).all()
            assert truth.voxels is not None and truth.voxels.label is not None and truth.voxels.label.max() == 2


def test_another_camera_than_the_voxels_are_around_has_none(tmp_path: Path) -> None:
    source = SequenceTruth(write_folder(tmp_path / "case"), camera="right")
    assert source.at(START_NS, "any") is None


def test_a_folder_of_another_time_is_refused_with_the_offset(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "case")
    with pytest.raises(SequenceError, match=r"--ground-truth-offset 11\.500000000"):
        SequenceTruth(folder).check_times(START_NS + 11_500_000_000, START_NS + 13_000_000_000)
    SequenceTruth(folder, offset_ns=11_500_000_000).check_times(START_NS + 11_500_000_000, START_NS + 13_000_000_000)


def test_a_frame_without_voxels_has_the_depth_of_its_lidar(shared_data: Path) -> None:
    source = SequenceTruth(shared_data / "kitti_windows" / "sequences" / "04")
    assert source.camera == "image_2"
    later = source.at(937_505_700, "any")
    assert later is not None and later.voxels is None and later.depth is not None
