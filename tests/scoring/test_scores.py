"""Scores of published voxels and depth, against cases computed by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import CLOUD_TYPE
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.evaluation.truth import ALL, OCCLUDED, VISIBLE, DepthTruth, FrameTruth, VoxelTruth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID, VoxelGrid
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD
from scene_completion_ros.scoring import PUBLISHED, LidarTruth, PublishedGrid, RecordedTruth, ReplayScores
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_DTYPE, VOXEL_CLOUD_FIELDS
from tests.commands.recordings import FRAME, START_NS, STEP_NS, record
from tests.inference.small_bundle import CANONICAL

GRID = VoxelGrid((4.0, -0.2, -0.2), 0.2, (2, 2, 1))
GRID_FROM_CAMERA = OPTICAL_FROM_FORWARD.inverse()
PINHOLE = Camera(fx=2.0, fy=2.0, cx=0.5, cy=0.5, width=2, height=2)
P00, P01, P11 = (4.1, -0.1, -0.1), (4.1, 0.1, -0.1), (4.3, 0.1, -0.1)  # centres of voxels [x, y]
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


def no_depth() -> NDArray[np.float32]:
    return np.full((2, 2), NAN, dtype=np.float32)


def test_voxels_by_hand() -> None:
    # [X, Y] = [0, 0] occupied and found; [0, 1] occupied and missed; [1, 0] free and called occupied; [1, 1] free.
    occupied = np.array([[True, True], [False, False]])[..., None]
    visible = np.array([[True, False], [True, False]])[..., None]
    everywhere = np.ones_like(occupied)
    truth = VoxelTruth("by hand", GRID, GRID_FROM_CAMERA, occupied, everywhere, everywhere, visible)
    cloud = cloud_of([(4.1, -0.1, -0.1), (4.3, -0.1, -0.1)], [0.9, 0.6])
    scores = ReplayScores([OneTruth(truth)], PublishedGrid(GRID, GRID_FROM_CAMERA))
    scores.add(cloud, no_depth(), PINHOLE, stamp_ns=1, frame_id="another")
    assert scores.scores.to_json() == {}
    scores.add(cloud, no_depth(), PINHOLE, stamp_ns=1, frame_id=FRAME)
    regions = voxel_rows(scores)
    assert {(row["frames"], row["covered"], row["range_m"]) for row in regions.values()} == {(1, 1.0, 0.4)}
    found = regions[ALL]
    assert found["voxels"] == 4
    assert (found["iou"], found["precision"], found["recall"]) == pytest.approx((1 / 3, 1 / 2, 1 / 2))
    # 0.9 finds the first half at precision 1; the rest comes with score 0, all four voxels: precision 1/2.
    assert found["average_precision"] == pytest.approx(0.5 * 1.0 + 0.5 * 0.5)
    seen = regions[VISIBLE]  # [0, 0] and [1, 0]: one right, one wrong
    assert (seen["iou"], seen["recall"], seen["average_precision"]) == pytest.approx((0.5, 1.0, 1.0))
    hidden = regions[OCCLUDED]  # nothing published there
    assert (hidden["iou"], hidden["precision"], hidden["recall"]) == (0.0, None, 0.0)
    assert "depth" not in scores.scores.to_json()
    page = scores.scores.markdown()
    assert "| node | 1 | published | all | 100.0 | 50.0 | 33.3 | 50.0 | 50.0 | 50.0 | 75.0 |" in page
    assert "| node | 1 | published | occluded | 100.0 | 50.0 | 0.0 | – | 0.0 | 50.0 | 50.0 |" in page
    assert scores.scores.headlines()["voxels against case, 0.4 m"]["iou"] == pytest.approx(1 / 3)
    json.dumps(scores.scores.to_json(), allow_nan=False)


def voxel_rows(scores: ReplayScores) -> dict[str, dict[str, Any]]:
    """Region -> row."""
    return {row["region"]: row for row in scores.scores.rows("voxels")}


def depth_row(scores: ReplayScores) -> dict[str, Any]:
    """Of all pixels."""
    (row,) = [row for row in scores.scores.rows("depth") if row["pixels"] == "all pixels"]
    return row


def test_points_outside_of_the_nodes_grid_are_left_out() -> None:
    cloud = cloud_of([(4.1, -0.1, -0.1), (9.0, 0.0, 0.0)], [0.7, 0.9])
    found = PublishedGrid(GRID, GRID_FROM_CAMERA).at(cloud, GRID, GRID_FROM_CAMERA)
    assert found.occupied[PUBLISHED].sum() == 1


def test_depth_by_hand() -> None:
    truth = DepthTruth(PINHOLE, np.array([[10.0, 40.0], [5.0, 0.0]], dtype=np.float32))
    scores = ReplayScores([OneTruth(depth=truth)], PublishedGrid(GRID, GRID_FROM_CAMERA))
    published = np.array([[10.0, INF], [NAN, 20.0]], dtype=np.float32)  # right, too far: 80 m, unknown, no truth
    scores.add(cloud_of([], []), published, PINHOLE, stamp_ns=1, frame_id=FRAME)
    errors = depth_row(scores)
    assert errors["frames"] == 1
    assert errors["covered"] == pytest.approx(2 / 3)
    assert errors["abs_rel"] == pytest.approx((0.0 + 1.0) / 2)
    assert errors["rmse"] == pytest.approx(np.sqrt((0.0 + 1600.0) / 2))
    assert errors["a1"] == 0.5
    # Medians 45 and 25: 5.6 and 44.4 m.
    assert errors["abs_rel_scaled"] == pytest.approx((4.0 / 9.0 + 1.0 / 9.0) / 2)
    assert "| node | 1 | all pixels | 66.7 | 0.500 |" in scores.scores.markdown()


def test_depth_against_the_recordings_lidar_by_hand(tmp_path: Path) -> None:
    """A pole 20 m ahead and 5 m to the left: all errors are those of 24 m instead of 20 m."""
    column = round(CANONICAL.cx - 5.0 / 20.0 * CANONICAL.fx)
    with LidarTruth(record(tmp_path / "drive"), CANONICAL) as lidar:
        truth = lidar.at(START_NS + STEP_NS, FRAME)
        rows, columns = np.nonzero(truth.depth.depth)
        assert set(columns.tolist()) == {column}
        assert len(rows) > 20
        np.testing.assert_allclose(truth.depth.depth[rows, columns], 20.0, rtol=1e-6)
        assert lidar.at(START_NS + STEP_NS, "a frame without transforms") is None
    published = np.full((CANONICAL.height, CANONICAL.width), 50.0, dtype=np.float32)
    published[:, column] = 24.0
    with LidarTruth(tmp_path / "drive", CANONICAL) as lidar:
        scores = ReplayScores([lidar], PublishedGrid(DEFAULT_GRID, GRID_FROM_CAMERA))
        for number in range(3):
            stamp_ns = START_NS + number * STEP_NS
            scores.add(cloud_of([], []), published, CANONICAL, stamp_ns=stamp_ns, frame_id=FRAME)
    row = depth_row(scores)
    assert (row["recordings"], row["frames"], row["covered"], row["a1"]) == ("lidar", 3, 1.0, 1.0)
    assert (row["abs_rel"], row["rmse"]) == pytest.approx((0.2, 4.0))


def test_against_recorded_voxels_by_hand(tmp_path: Path) -> None:
    """Recorded: [0, 0] and [1, 1]. Published: [0, 0] and [0, 1]. One voxel of three is both."""
    sooner, later = (cloud_of(points, [0.9, 0.9]) for points in ([P00, P11], [P00, P01]))
    with BagWriter(tmp_path / "before") as bag:
        write_voxels(bag, sooner, START_NS)
        write_voxels(bag, later, START_NS + STEP_NS)
    place = PublishedGrid(GRID, GRID_FROM_CAMERA)
    with RecordedTruth(tmp_path / "before", place, offset_ns=7) as before:
        scores = ReplayScores([before], place)
        scores.add(later, no_depth(), PINHOLE, stamp_ns=START_NS + 7, frame_id=FRAME)
        found = voxel_rows(scores)[ALL]
        assert (found["voxels"], found["iou"], found["precision"]) == pytest.approx((4, 1 / 3, 1 / 2))
        assert before.at(START_NS + STEP_NS // 2, FRAME) is None
        scores.add(later, no_depth(), PINHOLE, stamp_ns=START_NS + STEP_NS, frame_id=FRAME)  # the same: 2 of 2
        found = voxel_rows(scores)[ALL]
        assert (found["voxels"], found["iou"]) == pytest.approx((8, 3 / 5))


def write_voxels(bag: BagWriter, cloud: NDArray[np.void], stamp_ns: int) -> None:
    types = bag.typestore.types
    fields = [types["sensor_msgs/msg/PointField"](*field) for field in VOXEL_CLOUD_FIELDS]
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=FRAME)
    size, data = VOXEL_CLOUD_DTYPE.itemsize, cloud.view(np.uint8).reshape(-1)
    message = types[CLOUD_TYPE](header, 1, len(cloud), fields, False, size, size * len(cloud), data, True)
    bag.write("/scene_completion/voxels", CLOUD_TYPE, message, stamp_ns)
