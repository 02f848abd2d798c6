"""Lengths of things along rays by hand, of perfect predictions, and of the kernel and its twin."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.evaluation.bodies import NO_THING, OTHER, THINGS, BodyTally, bodies
from scene_completion_ros.evaluation.metric import VoxelAnswer
from scene_completion_ros.evaluation.semantic_classes import (
    ROOM_CLASSES,
    ROOM_IDS,
    SEMANTIC_KITTI_CLASSES,
    SEMANTIC_KITTI_TO_COMMON,
    SSCBENCH_CLASSES,
    SSCBENCH_TO_COMMON,
    ClassMap,
)
from scene_completion_ros.evaluation.truth import FREE, UNKNOWN, FrameTruth, VoxelTruth
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.grids import grid_rays
from tests.evaluation import twins

GRID = VoxelGrid((0.0, -25.6, 0.0), 0.2, (256, 256, 6))
# It looks ahead along the voxels [:, 128, 0], and its only ray is in the n-th of them at step n.
ONE_RAY = Camera(fx=100.0, fy=100.0, cx=0.0, cy=0.0, width=1, height=1)
POSE = RigidTransform(OPTICAL_FROM_FORWARD.inverse().rotation, np.array([0.0, 0.1, 0.1]))
NAMES = {".": "empty", "C": "car", "P": "person", "I": "pole", "o": "building", "?": "unknown"}


def truth_of(label: np.ndarray, unknown: np.ndarray, grid: VoxelGrid = GRID, **more: Any) -> VoxelTruth:
    return VoxelTruth("by hand", grid, POSE, label > 0, ~unknown, np.ones(grid.shape, bool), label=label, **more)


def along(letters: str) -> VoxelTruth:
    """What the ray meets; nothing behind that, up to the end of the grid."""
    label, unknown = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, bool)
    for step, letter in enumerate(letters):
        unknown[step, 128, 0] = letter == "?"
        label[step, 128, 0] = 0 if letter == "?" else SEMANTIC_KITTI_CLASSES.index(NAMES[letter])
    return truth_of(label, unknown)


def rows_of(truth: VoxelTruth, predicted: np.ndarray, camera: Camera = ONE_RAY, **more: Any) -> dict[Any, Any]:
    tally, none = BodyTally(None), np.zeros_like(predicted)
    answer = VoxelAnswer(predicted.astype(np.float32), {"another": none, "mine": predicted}, own="mine", **more)
    tally.add(SimpleNamespace(truth=FrameTruth(truth, None), voxels=answer, camera=camera))
    return {(row["class"], row["range_m"]): row for row in tally.rows()}


def row_of(letters: str, *spans: tuple[int, int], of: tuple[str, float] = ("car", 12.8), **more: Any) -> dict[str, Any]:
    """Scores of what the ray meets, where a prediction fills these spans of it."""
    predicted = np.zeros(GRID.shape, bool)
    for first, stop in spans:
        predicted[first:stop, 128, 0] = True
    return dict(rows_of(along(letters), predicted, **more)[of])


def figures(row: dict[str, Any]) -> tuple[float, float, float]:
    assert (row["things"], row["measured"], row["rays"], row["cut"], row["missed"]) == (1, 1, 1, 0.0, 0.0)
    assert row["overhang_90_m"] == row["overhang_m"]  # of one thing
    return row["true_m"], row["predicted_m"], row["overhang_m"]


CAR = "." * 50 + "C" * 20  # 10 m ahead, 4 m long
PERSON = "." * 100 + "PP"


def test_a_car_is_three_metres_too_long() -> None:
    assert figures(row_of(CAR, (50, 85))) == pytest.approx((4.0, 7.0, 3.0))
    assert figures(row_of(CAR, (50, 58))) == pytest.approx((4.0, 1.6, -2.4))
    assert figures(row_of(CAR, (52, 72))) == pytest.approx((4.0, 4.0, 0.0))  # at another distance: depth's matter


def test_a_person_is_a_wall() -> None:
    """To the end of the grid, or to the house behind: within that, the prediction is right."""
    person = "person", 25.6
    assert figures(row_of(PERSON, (100, 256), of=person)) == pytest.approx((0.4, 31.2, 30.8))
    house = PERSON + "." * 18 + "o" * 10
    assert figures(row_of(house, (100, 256), of=person)) == pytest.approx((0.4, 4.0, 3.6))
    # The same as what does not belong to it: the next person, and what touches it.
    assert figures(row_of(PERSON + ".." + "P", (100, 256), of=person)) == pytest.approx((0.4, 0.8, 0.4))
    assert figures(row_of(PERSON + "o" * 10, (100, 256), of=person)) == pytest.approx((0.4, 0.4, 0.0))


def test_single_gaps_are_bridged() -> None:
    assert figures(row_of("." * 50 + "CC.CoC?CC", (50, 53), (54, 56))) == pytest.approx((1.8, 1.2, -0.6))
    assert figures(row_of("." * 50 + "CC..CC", (50, 52))) == pytest.approx((0.4, 0.4, 0.0))
    assert figures(row_of(CAR, (50, 52), (54, 70))) == pytest.approx((4.0, 0.4, -3.6))


def test_what_is_unknown_does_not_count() -> None:
    """The body goes on unseen, or ends before; in the latter case, what is known to be free counts."""
    assert figures(row_of(CAR + "....." + "?" * 90, (50, 256))) == pytest.approx((4.0, 5.0, 1.0))
    assert figures(row_of("??." + CAR[3:], (50, 70))) == pytest.approx((4.0, 4.0, 0.0))  # nothing hides it
    for cut in (row_of(CAR + "?", (50, 256)), row_of("." * 50 + "C" * 206, (50, 256))):
        assert (cut["things"], cut["measured"], cut["cut"]) == (1, 0, 1.0)
        assert np.isnan([cut[key] for key in ("missed", "true_m", "predicted_m", "overhang_m", "overhang_90_m")]).all()
    # Outside of what a method covers, the same.
    covered = np.ones(GRID.shape, bool)
    covered[75:] = False
    assert figures(row_of(CAR, (50, 256), covered=covered)) == pytest.approx((4.0, 5.0, 1.0))


def test_a_prediction_elsewhere_is_none() -> None:
    """1 m off is near, at 20 m also 2 m; nothing near is a share of its own."""
    assert figures(row_of(CAR, (45, 65))) == pytest.approx((4.0, 4.0, 0.0))
    assert figures(row_of(PERSON, (90, 92), of=("person", 25.6))) == pytest.approx((0.4, 0.4, 0.0))
    thin = "." * 50 + "I"
    lost = row_of(CAR, (40, 44)), row_of(CAR, (56, 70)), row_of(CAR), row_of(thin + "..o", (53, 60), of=("pole", 12.8))
    for row in lost:
        assert (row["things"], row["measured"], row["cut"], row["missed"]) == (1, 0, 0.0, 1.0)
        assert np.isnan(row["overhang_m"])
    # Where it may begin unseen, it is not known to be missed.
    assert row_of(thin + "..?", (53, 60), of=("pole", 12.8))["cut"] == 1.0
    assert row_of(thin + "......?", (57, 60), of=("pole", 12.8))["missed"] == 1.0


def test_things_count_once_in_the_ring_of_their_distance() -> None:
    """Of two cars at 20 m, the wide one with most rays is 1 m too long, the other one 3 m; a near one is exact."""
    label, predicted = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, bool)
    cars = [(20, 30, 126, 130, 0), (100, 110, 148, 188, 5), (100, 110, 104, 112, 15), (200, 210, 124, 132, 7)]
    for first, stop, right, left, too_long in cars:
        label[first:stop, right:left] = SEMANTIC_KITTI_CLASSES.index("car")
        predicted[first : stop + too_long, right:left] = True
    camera = Camera(fx=150.0, fy=150.0, cx=90.0, cy=0.0, width=181, height=1)
    found = rows_of(truth_of(label, np.zeros(GRID.shape, bool)), predicted, camera)
    near, far, hidden = (found["car", range_m] for range_m in (12.8, 25.6, 51.2))
    assert (near["things"], far["things"], hidden["things"]) == (1, 2, 0)
    assert near["true_m"] == near["predicted_m"] == pytest.approx(2.0) and near["overhang_m"] == 0.0
    # Rays at an angle are a little longer. The median over all rays would be 1 m.
    assert far["overhang_m"] == pytest.approx(2.0, abs=0.15)
    assert far["overhang_90_m"] == pytest.approx(1.0 + 0.9 * 2.0, abs=0.2)
    absent = found["trunk", 25.6]
    assert absent["things"] == 0 and np.isnan([absent["cut"], absent["missed"], absent["overhang_m"]]).all()


@pytest.mark.parametrize(
    ("classes", "class_map", "things"),
    [
        (SEMANTIC_KITTI_CLASSES, SEMANTIC_KITTI_TO_COMMON, {"car", "person", "pole", "trunk"}),
        (SSCBENCH_CLASSES, SSCBENCH_TO_COMMON, {"car", "person", "pole"}),
        (ROOM_CLASSES, ROOM_IDS, {"person", "bed", "chair", "sofa", "table", "cabinet", "desk", "refrigerator"}),
    ],
)
def test_a_perfect_prediction_has_no_overhang(classes: tuple[str, ...], class_map: ClassMap, things: set[str]) -> None:
    """Things of any shape that touch each other, walls and what is unknown."""
    grid, random = VoxelGrid((0.0, -6.4, -3.2), 0.2, (64, 64, 32)), np.random.default_rng(3)
    label = np.zeros(grid.shape, np.uint8)
    wanted = [classes.index(name) for name in (*THINGS, "wall", "building") if name in classes]
    for corner in random.integers(0, grid.shape, (250, 3)):
        label[tuple(slice(start, start + size) for start, size in zip(corner, (3, 2, 4), strict=True))] = random.choice(
            wanted
        )
    truth = truth_of(label, random.random(grid.shape) < 0.05, grid, class_map=class_map)
    camera = Camera(fx=40.0, fy=40.0, cx=39.5, cy=19.5, width=80, height=40)
    rows = rows_of(truth, label > 0, camera)
    assert {name for name, _ in rows} == things
    measured = [row for row in rows.values() if row["measured"]]
    assert len(measured) >= len(things)
    assert {(row["overhang_m"], row["overhang_90_m"], row["missed"]) for row in measured} == {(0.0, 0.0, 0.0)}


def test_the_kernel_and_its_twin_agree() -> None:
    """Clutter of short runs, gaps, unknown and other voxels, seen by a tilted camera within it and by one behind it."""
    random = np.random.default_rng(5)
    grid = VoxelGrid((0.0, -4.0, -2.0), 0.2, (60, 40, 20))
    states, share = (FREE, 1, 2, OTHER, UNKNOWN), (0.91, 0.03, 0.02, 0.02, 0.02)
    codes = random.choice(np.array(states, np.uint8), grid.shape, p=share).repeat(3, axis=0)[: grid.shape[0]]
    predicted = ((codes > FREE) & (random.random(grid.shape) < 0.7)) | (random.random(grid.shape) < 0.05)
    turned = RigidTransform.from_quaternion(np.array([0.03, 0.04, -0.02, 0.998]) / 0.9995, (0.3, 0.2, -1.0))
    camera = Camera(fx=60.0, fy=60.0, cx=47.3, cy=23.7, width=96, height=48)
    told = set()
    for pose in (turned, RigidTransform(np.eye(3), np.array([0.0, 0.1, 5.0]))):
        rays = grid_rays(grid, OPTICAL_FROM_FORWARD @ pose, camera)
        found = bodies(codes, predicted, rays, 5.0).T.tolist()
        for one, expected in zip(found, twins.bodies(codes, predicted, rays, 5.0), strict=True):
            assert tuple(one) == expected if expected[0] != NO_THING else one[0] == NO_THING
            told.add(one[3])
    assert told >= {-1, 0, 1, 2, 3, 5}
