"""Scores of published voxels and depth, against cases computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import CLOUD_TYPE
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import GridError, SequenceError
from scene_completion_ros.evaluation.occupancy import ranges_within
from scene_completion_ros.evaluation.truth import ALL, OCCLUDED, VISIBLE, DepthTruth, FrameTruth, VoxelTruth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID, VoxelGrid
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.scoring.published import PUBLISHED, PublishedGrid, published_depth
from scene_completion_ros.scoring.recording_truth import LidarTruth, RecordedTruth, read_camera_from_lidar
from scene_completion_ros.scoring.scores import ReplayScores
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


def test_what_the_nodes_grid_does_not_cover_does_not_count() -> None:
    occupied = np.ones(GRID.shape, dtype=bool)
    truth = VoxelTruth("by hand", GRID, GRID_FROM_CAMERA, occupied, occupied, occupied)
    half = VoxelGrid((4.0, -0.2, -0.2), 0.2, (1, 2, 1))
    scores = ReplayScores([OneTruth(truth)], PublishedGrid(half, GRID_FROM_CAMERA))
    scores.add(cloud_of([(4.1, -0.1, -0.1)], [0.9]), no_depth(), PINHOLE, stamp_ns=1, frame_id=FRAME)
    found = voxel_rows(scores)[ALL]
    assert found["covered"] == 0.5
    assert (found["voxels"], found["iou"], found["recall"]) == (2, 0.5, 0.5)


def test_another_grid_takes_the_voxel_that_its_centres_lie_in() -> None:
    """The other grid stands 1 m further ahead, turned by 90 degrees to the left: its x is the node's y."""
    turned = RigidTransform(np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.zeros(3))
    other = VoxelGrid((-0.2, -4.4, -0.2), 0.2, (2, 2, 1))
    cloud = cloud_of([(4.3, 0.1, -0.1)], [0.8])  # in the other frame (0.1, -4.3, -0.1): voxel [1, 0]
    found = PublishedGrid(GRID, GRID_FROM_CAMERA).at(cloud, other, turned @ GRID_FROM_CAMERA)
    assert found.covered is not None and found.covered.all()
    assert np.argwhere(found.occupied[PUBLISHED]).tolist() == [[1, 0, 0]]
    assert found.score[1, 0, 0] == np.float32(0.8)
    assert found.score.sum() == np.float32(0.8)


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


def test_depth_comes_from_the_nearest_published_pixel() -> None:
    """The published image has half the size and sees only the upper half of the other one."""
    camera = Camera(fx=4.0, fy=4.0, cx=1.5, cy=1.5, width=4, height=4)
    published = Camera(fx=2.0, fy=2.0, cx=0.5, cy=0.5, width=2, height=1)
    found = published_depth(np.array([[3.0, 7.0]], dtype=np.float32), published, camera)
    np.testing.assert_array_equal(found[:2], [[3.0, 3.0, 7.0, 7.0]] * 2)
    assert np.isnan(found[2:]).all()


def test_depth_against_the_recordings_lidar_by_hand(tmp_path: Path) -> None:
    """A pole 20 m ahead and 5 m to the left: all errors are those of 24 m instead of 20 m."""
    column = round(CANONICAL.cx - 5.0 / 20.0 * CANONICAL.fx)
    with LidarTruth(record(tmp_path / "drive"), CANONICAL) as lidar:
        truth = lidar.at(START_NS + STEP_NS, FRAME)
        assert truth is not None
        assert truth.depth is not None
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


def test_the_lidars_pose_may_be_given(tmp_path: Path) -> None:
    """As recorded, but 2 m further ahead: the pole is 22 m away."""
    record(tmp_path / "drive")
    pose = "camera_from_lidar: [0, -1, 0, 0,  0, 0, -1, -1,  1, 0, 0, 2,  0, 0, 0, 1]\n"
    (tmp_path / "pose.yaml").write_text(pose, encoding="utf-8")
    given = read_camera_from_lidar(tmp_path / "pose.yaml")
    with LidarTruth(tmp_path / "drive", CANONICAL, given) as lidar:
        truth = lidar.at(START_NS, "a frame without transforms")
    assert truth is not None
    assert truth.depth is not None
    seen = truth.depth.depth[truth.depth.depth > 0.0]
    assert len(seen) > 20
    np.testing.assert_allclose(seen, 22.0, rtol=1e-6)


@pytest.mark.parametrize("text", ["other: 1", "camera_from_lidar: [1, 2]", "camera_from_lidar: x"])
def test_files_without_a_pose_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pose.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SequenceError, match=r"pose\.yaml: holds no camera_from_lidar"):
        read_camera_from_lidar(path)


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


def test_ranges_that_a_grid_holds() -> None:
    assert ranges_within(DEFAULT_GRID) == (12.8, 25.6, 51.2)
    assert ranges_within(VoxelGrid((0.0, -6.4, 0.0), 0.2, (64, 64, 8))) == (12.8,)
    assert ranges_within(GRID) == (0.4,)
    with pytest.raises(GridError, match="square"):
        ranges_within(VoxelGrid((0.0, 0.0, 0.0), 0.2, (2, 3, 1)))
