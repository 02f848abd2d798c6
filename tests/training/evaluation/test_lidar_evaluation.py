"""The LiDAR protocols: cases by hand, and a street with one wall."""

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import GridError, SequenceError
from scene_completion_ros.evaluation.depth import DEPTH
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.truth import FrameTruth
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.sequences.frame_lists import FrameSplit
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera
from scene_completion_training.evaluation.geometry import (
    EmptyControl,
    depth_frames,
    scan_frames,
    scanned_frames,
    scored_frames,
    surface_controls,
)
from scene_completion_training.evaluation.lidar_evaluation import (
    LIDAR_OCCUPANCY,
    LIDAR_ONLY,
    LIDAR_ONLY_NEAR,
    ORIGINAL,
    Scan,
    SlabProtocol,
    SlabTruth,
    level_scans,
    not_seen_free,
    slab_masks,
    slab_scores,
    slabs_of,
    surface_profile,
)
from scene_completion_training.evaluation.predictor import Frame, Prediction, Predictor
from tests.official_layouts import RAW_DRIVE, write_split
from tests.sequences import test_kitti_raw
from tests.training.evaluation.one_wall import Wall, shadowed

EIGHT = replace(ORIGINAL, bins=8)  # 45 degrees each: bin i covers -180 + 45 i on


def sensor_at(*position: float) -> RigidTransform:
    """A sensor with x forward, y left, z up at a position (x right, y down, z forward) of the level frame."""
    return RigidTransform(OPTICAL_FROM_FORWARD.rotation, np.array(position))


def polar(degrees: float, distance: float, up: float = -0.3) -> list[float]:
    angle = math.radians(degrees)
    return [distance * math.cos(angle), distance * math.sin(angle), up]


def ring(distance: float, position: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Scan:
    """A wall all around the sensor, at a height of the slab."""
    points = [polar(angle, distance) for angle in np.arange(-179.75, 180.0, 0.5)]
    return Scan(np.array(points), sensor_at(*position))


def scan_of(*points: list[float]) -> Scan:
    return Scan(np.array(points), sensor_at(0.0, 0.0, 0.0))


def slab_truth(scans: list[Scan], protocol: SlabProtocol) -> SlabTruth:
    truth = SlabTruth(protocol)
    for scan in scans:
        truth.add(scan)
    return truth


def truth_of(not_seen_free: np.ndarray, first_saw_free: np.ndarray, scans: int, protocol: SlabProtocol) -> SlabTruth:
    truth = SlabTruth(protocol)
    truth.not_seen_free, truth.first_saw_free, truth.scans = not_seen_free, first_saw_free, scans
    return truth


def test_a_bin_begins_at_its_lower_border() -> None:
    # 45° opens bin 5; 180° is the end of bin 7.
    profile = surface_profile(scan_of([5.0, 5.0, -0.3], [-8.0, 0.0, -0.3]), EIGHT)
    np.testing.assert_allclose(profile[[4, 5, 6, 7]], [math.hypot(5, 5), math.hypot(5, 5), math.hypot(5, 5), 8.0])


@pytest.mark.parametrize(
    ("point", "sensor_ahead", "counts"),
    [
        ([10.0, 0.0, 0.01], 0.0, False),
        ([10.0, 0.0, 0.0], 0.0, True),
        ([10.0, 0.0, -0.75], 0.0, True),  # y = 0.75 m below the camera is the lower end
        ([10.0, 0.0, -0.76], 0.0, False),
        ([20.0, 0.0, 5.0], 0.0, True),  # 20.6 m from the camera: beyond the reach of 20.4 m any height counts
        ([20.0, 0.0, 3.0], 0.0, False),  # 20.2 m
        ([15.0, 0.0, 5.0], 5.0, True),  # the reach is measured from the camera, not from the sensor
    ],
)
def test_heights_that_count(point: list[float], sensor_ahead: float, counts: bool) -> None:
    scan = Scan(np.array([point]), sensor_at(0.0, 0.0, sensor_ahead))
    assert surface_profile(scan, EIGHT)[4] == pytest.approx(point[0] if counts else 0.0)


def test_a_scan_without_a_return_that_counts_has_seen_nothing_free() -> None:
    scan = scan_of(polar(0, 10, 2.0))
    assert not surface_profile(scan, EIGHT).any()
    assert not_seen_free(EIGHT.points(), scan, surface_profile(scan, EIGHT), EIGHT).all()


@pytest.mark.parametrize("scans", [3, 10, 20, 300])
def test_rule_is_the_published_one(scans: int) -> None:
    counts = np.arange(scans + 1)
    published = [Fraction(1 + c, scans) > Fraction(scans - 2, scans) for c in range(scans + 1)]
    assert truth_of(counts, counts > 0, scans, ORIGINAL).occupied.tolist() == published
    assert published.index(True) == scans - 2  # 18 of 20, 8 of 10, 298 of 300


LEVEL = replace(ORIGINAL, camera_pitch=0.0)


def test_a_point_is_free_once_three_scans_have_seen_it_so() -> None:
    # At 12 m (x = 0 lies between two columns) walls at 10 m hide the point, walls at 18 m do not.
    row = int(np.argmin(np.abs(ORIGINAL.points()[:, 0, 2] - 12.0)))
    for seen, expected in ((2, True), (3, False)):
        scans = [ring(18.0)] * seen + [ring(10.0)] * (5 - seen)
        truth = slab_truth(scans, LEVEL)
        assert truth.scans == 5
        assert truth.not_seen_free[row, 40] == 5 - seen
        assert truth.occupied[row, 40] == expected
        assert truth.first_saw_free[row, 40]
        assert not slab_truth(scans[::-1], LEVEL).first_saw_free[row, 40]  # the first scan is another one


def test_fewer_than_three_scans_are_refused() -> None:
    with pytest.raises(GridError, match="2 scans"):
        _ = slab_truth([ring(10.0)] * 2, ORIGINAL).occupied


def wall_truth(farthest_visible: int | None, protocol: SlabProtocol) -> SlabTruth:
    """All 10 scans say occupied, but the first saw one point free in the given row."""
    shape = protocol.points().shape[:2]
    first = np.zeros(shape, dtype=bool)
    if farthest_visible is not None:
        first[farthest_visible, 7] = True
    return truth_of(np.full(shape, 10), first, 10, protocol)


@pytest.mark.parametrize(("farthest", "first_row"), [(5, 0), (20, 0), (21, 1), (459, 439)])
def test_rows_far_behind_what_is_visible_are_cut(farthest: int, first_row: int) -> None:
    nothing = slab_masks(wall_truth(None, LIDAR_ONLY))
    assert nothing.occupied.size == nothing.visible.size == 0
    assert slab_masks(wall_truth(farthest, LIDAR_ONLY)).rows == slice(first_row, None)


@pytest.mark.parametrize(
    ("degrees", "surface"),
    [
        (22.5, 10.0),  # the middle of bin 4
        (45.0, 15.0),  # half way between the middles of bins 4 and 5
        (56.25, 17.5),
        (180.0, 15.0),  # bin 7 has what bin 5 has, and bins before the first return have that of bin 4
        (-100.0, 10.0),
    ],
)
def test_between_the_middles_of_bins_the_surface_is_interpolated(degrees: float, surface: float) -> None:
    scan = scan_of(polar(10.0, 10.0), polar(60.0, 20.0))
    profile = surface_profile(scan, EIGHT)
    angle = math.radians(degrees)
    distances = np.array([EIGHT.ego_radius - 0.1, EIGHT.ego_radius + 0.1, surface - 0.1, surface + 0.1])
    points = distances[:, None] * [-math.sin(angle), 0.0, math.cos(angle)]  # right, down, ahead
    assert not_seen_free(points, scan, profile, EIGHT).tolist() == [True, False, False, True]


def test_scores_of_ten_points_by_hand() -> None:
    """Points 0..3 are visible, 4..9 occluded."""
    predicted = np.array([0, 0, 1, 0, 1, 1, 1, 0, 0, 0], dtype=bool)
    occupied = np.array([0, 0, 0, 0, 1, 1, 0, 1, 0, 0], dtype=bool)
    visible = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    expected = (
        7 / 10,  # wrong are points 2, 6 and 7
        2 / 4,  # predicted 2, 4, 5, 6; of them occupied 4 and 5
        2 / 3,  # occupied 4, 5, 7; of them predicted 4 and 5
        4 / 6,  # occluded 4..9; wrong are 6 and 7
        2 / 3,  # occluded and predicted empty 7, 8, 9; of them empty 8 and 9
        2 / 3,  # occluded and empty 6, 8, 9; of them predicted empty 8 and 9
    )
    assert slab_scores(predicted, occupied, visible) == pytest.approx(expected)


# Both LiDAR protocols on a street with one wall.


def test_lidar_protocols_on_the_wall(street: PosedSequence) -> None:
    models = [Wall(), EmptyControl(), *surface_controls(street)[:2]]
    frame = Frame(street, 0, FrameTruth(None, None), slabs_of(level_scans(street, 0, 10, 0.0), 0.0))
    scores = Scores([LIDAR_OCCUPANCY])
    scores.run("street", models, [frame])  # the first frame, by ten scans
    found = {(row["protocol"].partition("@")[0], row["method"]): row for row in scores.rows("lidar")}
    assert all("@10, " in row["protocol"] for row in found.values())
    fair, wall = found["LiDAR only", "nothing"], found["LiDAR only", "wall"]
    # Every model is scored on the same points, and nothing is not rewarded.
    assert len({found["LiDAR only", model.name]["occluded"] for model in models}) == 1
    assert fair["O_rec"] == 0.0
    assert fair["O_acc"] < wall["O_acc"] < 1.0  # unseen is occupied here: all of the shadow
    # Ten scans from 0 to 2.25 m: the shadow, between |x| <= z / 10 .. about 4 / 10 per metre behind 10 m, is occupied.
    points = LIDAR_ONLY_NEAR.points()
    assert fair["occluded"] == pytest.approx(shadowed(points).sum(), rel=0.05)
    assert fair["IE_rec"] == 1.0  # nothing predicted is always right about what is free
    # The original protocol takes the empty field at its word: nothing is hidden, so nothing can be missed.
    empty = found["original", "nothing"]
    assert (empty["O_acc"], empty["IE_acc"], empty["IE_acc frames"]) == (1.0, None, 0)
    assert (empty["points"], empty["occluded"], empty["occupied"]) == (12_800, 0, 0)
    assert "no occluded point: O_acc is meaningless" in empty["remarks"]
    assert found["original", "wall"]["occluded"] == pytest.approx(fair["occluded"], rel=0.1)
    assert found["LiDAR only, far", "wall"]["points"] < 460 * 80 + 1


LISTED, OTHER = f"2011_09_26/{RAW_DRIVE}", "2011_09_26_drive_0002_sync"
WALL = 12.0
LIDAR_BEHIND_CAMERA = 0.27  # metres, `test_kitti_raw.VELO_TO_CAM`
raw_drive = test_kitti_raw.drive


class FlatWall(Predictor):
    """Sees a wall across the whole image, `WALL` metres ahead."""

    name = "wall"

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        # 64 samples so near to the wall are not more than 8 cm apart.
        camera = sequence.cameras[reference_camera(sequence)]
        return Prediction(camera, lambda points: np.where(points[:, 2] >= WALL, 1e4, 0).astype(np.float32), (11, 15.5))


def write_scan(drive: Path, frame: int, depths: list[float], down: float = 0.15) -> None:
    """Returns at these z-depths of camera 2, side by side, below the principal point by `down` of the depth."""
    z = np.array(depths)
    left = (0.1 * np.arange(len(z)) - 0.1) * z
    points = np.stack([z + LIDAR_BEHIND_CAMERA, left, -0.08 - down * z, np.zeros(len(z))], axis=-1)
    points.astype("<f4").tofile(drive / "velodyne_points" / "data" / f"{frame:010d}.bin")


def test_frames_are_scored_against_their_own_scan(raw_drive: Path) -> None:
    """Returns 16 m ahead, in as many voxels, and rays to them."""
    write_scan(raw_drive, 0, [16.0, 16.0, 16.0], down=0.1)
    drive = open_recording(raw_drive)
    first, *_ = scan_frames(drive, 1)
    assert first.index == 0 and first.voxels.occupied.sum() == 3 and not first.slabs
    assert 20 < first.voxels.free.sum() <= 3 * 54 and set(first.voxels.regions) == {"all"}


def test_unrelated_frames_have_no_slabs(shared_data: Path) -> None:
    """Nor are their scans accumulated; the true depth counts before the scan."""
    pairs = open_recording(shared_data / "kitti_more" / "kitti_2015_pairs")
    assert not list(scored_frames(pairs, 1))
    (frame,) = depth_frames(pairs, [3])
    assert frame.truth.depth is not None
    np.testing.assert_array_equal(frame.truth.depth.depth, pairs.asset(3, "depth"))


def test_errors_of_a_wall_are_means_over_frames(raw_drive: Path, tmp_path: Path) -> None:
    write_scan(raw_drive, 0, [10.0])
    write_scan(raw_drive, 1, [8.0, 16.0, 8.0, 90.0])  # what is beyond 80 m does not count
    drive = open_recording(raw_drive)
    split = FrameSplit(write_split(tmp_path / "list.txt", [f"{LISTED} 0 l", f"{LISTED} 1 l"]))
    scores = Scores([DEPTH])
    scores.run("drives", [FlatWall()], depth_frames(drive, scanned_frames(drive, split)))
    (row,) = [row for row in scores.rows("depth") if row["pixels"] == "Garg crop"]
    assert (row["method"], row["frames"]) == ("wall", 2)
    frames = [2.0 / 10.0, (4.0 / 8.0 + 4.0 / 16.0 + 4.0 / 8.0) / 3.0]
    assert row["abs_rel"] == pytest.approx(np.mean(frames), abs=0.01)
    assert row["rmse"] == pytest.approx(np.mean([2.0, 4.0]), abs=0.1)
    assert row["a1"] == 0.5  # 12 / 10 is below 1.25; 12 / 8 and 16 / 12 are not


def test_frames_with_lidar_are_scored_and_those_of_a_list_that_lack_it_are_missing(
    raw_drive: Path, tmp_path: Path
) -> None:
    drive = open_recording(raw_drive)
    assert scanned_frames(drive) == [0, 1, 2, 3]
    names = [f"{LISTED} 9 l", f"{LISTED} 1 r", f"{LISTED} 2 l", f"{LISTED} 4 l", f"{OTHER} 7 l"]
    split = FrameSplit(write_split(tmp_path / "list.txt", names))
    assert scanned_frames(drive, split) == [2]
    with pytest.raises(SequenceError, match=f"3 of its 5 frames are not in .*{LISTED} 9 l, {LISTED} 4 l, {OTHER} 7 l"):
        split.counted()
    assert split.counted(allow_missing=True).used == 2
