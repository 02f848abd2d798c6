"""Scores of published voxels and depth by hand, and their truth in folders and bags, found by stamp."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.semantic_classes import SEMANTIC_KITTI_CLASSES
from scene_completion_ros.evaluation.truth import DepthTruth, FrameTruth, VoxelTruth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.scoring import LidarOfBag, PublishedGrid, ReplayScores, SequenceTruth
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_DTYPE
from tests.commands.recordings import FRAME, START_NS, STEP_NS

GRID = VoxelGrid((4.0, -0.2, -0.2), 0.2, (2, 2, 1))
GRID_FROM_CAMERA = OPTICAL_FROM_FORWARD.inverse()
PINHOLE = Camera(fx=2.0, fy=2.0, cx=0.5, cy=0.5, width=2, height=2)
INF, NAN = float("inf"), float("nan")


class OneTruth:
    """The same ground truth for every image of a frame."""

    def __init__(self, voxels: VoxelTruth | None = None, depth: DepthTruth | None = None) -> None:
        self.name = "case"
        self._truth = FrameTruth(voxels, depth)

    def at(self, stamp_ns: int, frame_id: str) -> FrameTruth | None:
        return self._truth if frame_id == FRAME else None


def cloud_of(points_grid: list[tuple[float, float, float]], probability: list[float]) -> NDArray[np.void]:
    """Published voxels at points of the grid's frame."""
    cloud = np.zeros(len(points_grid), dtype=VOXEL_CLOUD_DTYPE)
    cloud["x"], cloud["y"], cloud["z"] = OPTICAL_FROM_FORWARD.apply(np.array(points_grid).reshape(-1, 3)).T
    cloud["probability"] = probability
    return cloud


def test_voxels_by_hand() -> None:
    # [X, Y] = [0, 0] occupied and found; [0, 1] occupied and missed; [1, 0] free and called occupied; [1, 1] free.
    occupied = np.array([[True, True], [False, False]])[..., None]
    visible = np.array([[True, False], [True, False]])[..., None]
    everywhere = np.ones_like(occupied)
    cars = occupied.astype(np.uint8)
    truth = VoxelTruth("by hand", GRID, GRID_FROM_CAMERA, occupied, everywhere, everywhere, visible, label=cars)
    places = [(4.1, -0.1, -0.1), (4.3, -0.1, -0.1), (9.0, 0.0, 0.0)]  # the third lies outside of the grid
    cloud, no_depth = cloud_of(places, [0.9, 0.6, 0.9]), np.full((2, 2), NAN, np.float32)
    scores = ReplayScores([OneTruth(truth)], PublishedGrid(GRID, GRID_FROM_CAMERA))
    scores.add(cloud, no_depth, PINHOLE, stamp_ns=1, frame_id="another")
    assert (scores.scores.to_json(), scores.scores.markdown(), scores.scores.headlines()) == ({}, "", {})
    scores.add(cloud, no_depth, PINHOLE, stamp_ns=1, frame_id=FRAME)
    assert scores.scores.to_json().keys() == {"voxels", "obstacles", "bodies"}
    assert {(row["voxels"], row["range_m"]) for row in scores.scores.rows("voxels")} == {(4, 0.4), (2, 0.4)}
    page = scores.scores.markdown()
    # 0.9 finds the first half at precision 1; the rest comes with score 0, all four voxels: precision 1/2.
    assert "| node | 1 | published | all | 100.0 | 50.0 | 33.3 | 50.0 | 50.0 | 50.0 | 75.0 |" in page
    # [0, 0] and [1, 0]: one right, one wrong; nothing is published of the others.
    assert "| node | 1 | published | visible | 100.0 | 50.0 | 50.0 | 50.0 | 100.0 | 100.0 | 100.0 |" in page
    assert "| node | 1 | published | occluded | 100.0 | 50.0 | 0.0 | – | 0.0 | 50.0 | 50.0 |" in page
    # All is obstacles or free, and what lies lowest is taken for ground.
    assert all(f"| node | 1 | published | {kind} | 0.0 | – | – | 75.0 |" in page for kind in ("fixed", "growing"))
    assert scores.scores.headlines()["voxels against case, 0.4 m"]["iou"] == pytest.approx(1 / 3)
    json.dumps(scores.scores.to_json(), allow_nan=False)


def test_bodies_by_hand() -> None:
    """A pole of one voxel 2 m ahead of the one ray, published as four."""
    grid, pose = VoxelGrid((0.0, -1.6, 0.0), 0.2, (16, 16, 1)), np.array([0.0, 0.1, 0.1])
    label = np.zeros(grid.shape, np.uint8)
    label[10, 8, 0] = SEMANTIC_KITTI_CLASSES.index("pole")
    everywhere, grid_from_camera = np.ones(grid.shape, bool), RigidTransform(GRID_FROM_CAMERA.rotation, pose)
    truth = VoxelTruth("by hand", grid, grid_from_camera, label > 0, everywhere, everywhere, label=label)
    scores = ReplayScores([OneTruth(truth)], PublishedGrid(grid, grid_from_camera))
    cloud = cloud_of([(2.1 + 0.2 * voxel, 0.0, 0.0) for voxel in range(4)], [0.9] * 4)
    one_ray = Camera(fx=2.0, fy=2.0, cx=0.0, cy=0.0, width=1, height=1)
    scores.add(cloud, np.full((1, 1), NAN, np.float32), one_ray, stamp_ns=1, frame_id=FRAME)
    lengths = {"true": 0.2, "predicted": 0.8, "overhang": 0.6, "90th": 0.6}
    assert scores.bodies() == {"pole, to 3.2 m": pytest.approx({"things": 1, "measured": 1, **lengths})}
    assert (
        "| node | 1 | pole | 0 / 0 / 1 | 0 / 0 / 1 | – / – / 0.0 | – / – / 0.0 | – / – / 0.200 |"
        in scores.scores.markdown()
    )


def test_depth_by_hand() -> None:
    truth = DepthTruth(PINHOLE, np.array([[10.0, 40.0], [5.0, 0.0]], dtype=np.float32))
    scores = ReplayScores([OneTruth(depth=truth)], PublishedGrid(GRID, GRID_FROM_CAMERA))
    published = np.array([[10.0, INF], [NAN, 20.0]], dtype=np.float32)  # right, too far: 80 m, unknown, no truth
    scores.add(cloud_of([], []), published, PINHOLE, stamp_ns=1, frame_id=FRAME)
    (errors,) = [row for row in scores.scores.rows("depth") if row["pixels"] == "all pixels"]
    assert errors["frames"] == 1
    assert errors["covered"] == pytest.approx(2 / 3)
    assert errors["abs_rel"] == pytest.approx((0.0 + 1.0) / 2)
    assert errors["rmse"] == pytest.approx(np.sqrt((0.0 + 1600.0) / 2))
    assert errors["a1"] == 0.5
    # Medians 45 and 25: 5.6 and 44.4 m.
    assert errors["abs_rel_scaled"] == pytest.approx((4.0 / 9.0 + 1.0 / 9.0) / 2)
    assert "| node | 1 | all pixels | 66.7 | 0.500 |" in scores.scores.markdown()


# Ground truth of folders, found by stamp: of the street world's format, and of KITTI windows.


CAMERA = Camera(fx=4.0, fy=4.0, cx=3.5, cy=1.5, width=8, height=4)
SHAPE = (2, 2, 3)
IDENTITY = RigidTransform.identity()


def write_folder(folder: Path) -> Path:
    """Two frames with voxels and depth of the camera `left`; their labels say their number."""
    images = dict.fromkeys(("right", "left"), partial(np.zeros, (CAMERA.height, CAMERA.width, 3), np.uint8))
    frames = []
    for number in range(2):
        label = np.zeros(SHAPE, dtype=np.uint8)
        label[0, 0] = number + 1
        depth = np.full((CAMERA.height, CAMERA.width), 7.0 + number, dtype=np.float32)
        held = {"voxel_label": label, "voxel_flags": np.ones(SHAPE, np.uint8), "depth": depth}
        assets = {name: partial(np.asarray, value) for name, value in held.items()}
        frames.append(Frame(START_NS + number * STEP_NS, images, IDENTITY, assets))
    cameras, poses = dict.fromkeys(images, CAMERA), dict.fromkeys(images, IDENTITY)
    grid = {"origin": [0, -0.2, -0.3], "voxel_size": 0.2, "shape": list(SHAPE), "around": "left"}
    return PosedSequence("case", cameras, poses, frames, "by hand", provenance={"voxel_grid": grid}).save(folder)


def test_a_frame_is_found_by_its_stamp(tmp_path: Path) -> None:
    source = SequenceTruth(write_folder(tmp_path / "case"), offset_ns=3_000_000_000)
    assert (source.name, source.camera) == ("case", "left")
    second_ns = START_NS + STEP_NS + 3_000_000_000
    for shift_ns in (0, 5_000_000, -5_000_000):
        truth = source.at(second_ns + shift_ns, "any")
        assert (truth.depth.depth == 8.0).all() and truth.voxels.label.max() == 2
    assert source.at(second_ns + 5_000_001, "any") is None and source.at(second_ns - STEP_NS // 2, "any") is None


def test_a_folder_of_another_time_is_refused_with_the_offset(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "case")
    with pytest.raises(SequenceError, match=r"--ground-truth-offset 11\.500000000"):
        SequenceTruth(folder).check_times(START_NS + 11_500_000_000, START_NS + 13_000_000_000)
    SequenceTruth(folder, offset_ns=11_500_000_000).check_times(START_NS + 11_500_000_000, START_NS + 13_000_000_000)


def test_without_lidar_a_scan_near_the_image_or_a_known_frame_there_is_none(shared_data: Path) -> None:
    bags = shared_data / "rosbag2"
    with LidarOfBag(bags / "kitti00_gray_100f") as lidar:
        assert lidar.topic is None
        assert lidar.points_grid("camera", 0, DEFAULT_GRID_FROM_CAMERA) is None
    with LidarOfBag(bags / "kitti04_stereo_lidar_10f") as lidar:
        assert lidar.points_grid("nowhere", 1_317_000_000_000_000_000, DEFAULT_GRID_FROM_CAMERA) is None
        assert lidar.points_grid("camera_color_left_optical", 10, DEFAULT_GRID_FROM_CAMERA) is None
