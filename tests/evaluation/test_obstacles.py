"""Obstacles by hand: which voxels are some, what is found, what is a false alarm."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.evaluation.metric import VoxelAnswer
from scene_completion_ros.evaluation.obstacles import ObstacleTally, risen, true_obstacles
from scene_completion_ros.evaluation.semantic_classes import ROOM_CLASSES, ROOM_IDS, SEMANTIC_KITTI_CLASSES
from scene_completion_ros.evaluation.truth import FrameTruth, VoxelTruth
from scene_completion_ros.geometry import RigidTransform, VoxelGrid

GRID = VoxelGrid((0.0, -12.8, 0.0), 0.2, (128, 128, 6))  # 25.6 m
ROAD, OTHER_GROUND, CAR = map(SEMANTIC_KITTI_CLASSES.index, ("road", "other-ground", "car"))
Places = list[tuple[int, int, int]]


def voxels(places: Places, grid: VoxelGrid = GRID) -> np.ndarray:
    mask = np.zeros(grid.shape, dtype=bool)
    mask[tuple(np.array(places, dtype=int).reshape(-1, 3).T)] = True
    return mask


def truth_of(cars: Places, roads: Places = [], unknown: Places = [], *, classes: bool = True) -> VoxelTruth:  # noqa: B006
    """The camera stands at the grid's origin and sees everything."""
    label = (CAR * voxels(cars) + ROAD * voxels(roads)).astype(np.uint8)
    masks = label > 0, ~voxels(unknown), np.ones(GRID.shape, bool)
    return VoxelTruth("by hand", GRID, RigidTransform.identity(), *masks, label=label if classes else None)


def rows_of(truth: VoxelTruth, occupied: np.ndarray, score: np.ndarray | None = None, **more: Any) -> dict[Any, Any]:
    tally = ObstacleTally(None)
    answer = VoxelAnswer(occupied.astype(np.float32) if score is None else score, {"half": occupied}, **more)
    tally.add(SimpleNamespace(truth=FrameTruth(truth, None), voxels=answer))
    return {(row["tolerance"], row["range_m"]): row for row in tally.rows()}


def figures(row: dict[str, Any]) -> tuple[float, float, float]:
    return row["recall"], row["precision"], row["f_score"]


def test_one_is_found_one_is_missed_one_is_a_false_alarm() -> None:
    """Ground of a block, and at 0.5 m of height one voxel: 0.6 m off, 0.8 m off, and another where nothing is."""
    truth = truth_of([(10, 64, 2), (40, 64, 2)], roads=[(10, 64, 0)])
    ground = [(13, 64, 0), (44, 64, 0), (70, 64, 0)]
    predicted = voxels([*ground, (13, 64, 2), (44, 64, 2), (70, 64, 2)])
    found = rows_of(truth, predicted)
    assert figures(found["fixed", 25.6]) == pytest.approx((1 / 2, 1 / 3, 0.4))
    assert figures(found["growing", 25.6]) == figures(found["fixed", 25.6])  # 5 % of 8.1 m are less
    assert figures(found["fixed", 12.8]) == (1 / 2, 1 / 2, 1 / 2)  # the false alarm is at 14.1 m
    # Where nothing counts, a prediction is no false alarm: unknown, or outside of what the method covers.
    assert figures(rows_of(truth_of([(10, 64, 2)], unknown=[(70, 64, 2)]), predicted)["fixed", 25.6])[1] == 1 / 2
    covered = ~voxels([(70, 64, 2), (40, 64, 2)])
    assert figures(rows_of(truth, predicted, covered=covered)["fixed", 25.6]) == pytest.approx((1.0, 1 / 2, 2 / 3))
    nothing = rows_of(truth, voxels([]))["fixed", 25.6]
    assert nothing["recall"] == 0.0 and np.isnan([nothing["precision"], nothing["f_score"]]).all()


@pytest.mark.parametrize(("off", "fixed", "growing"), [(3, 1.0, 1.0), (5, 0.0, 1.0), (6, 0.0, 0.0)])
def test_the_tolerance_grows_with_the_distance(off: int, fixed: float, growing: float) -> None:
    """A car at 20.1 m, where 5 % are 1.01 m; its prediction is 0.6, 1.0 or 1.2 m to the left."""
    predicted = voxels([(100, 64 + off, 0), (100, 64 + off, 2)])
    found = rows_of(truth_of([(100, 64, 2)]), predicted)
    assert figures(found["fixed", 25.6])[:2] == (fixed, fixed)
    assert figures(found["growing", 25.6])[:2] == (growing, growing)


def test_ground_by_geometry_is_what_lies_lowest_in_a_block() -> None:
    """Blocks are eight voxels wide; obstacles rise by two voxels at least, as centres more than 0.35 m higher do."""
    places = [(0, 0, 1), (7, 7, 2), (3, 3, 3), (8, 0, 3), (0, 8, 4), (127, 127, 0), (126, 126, 2)]
    assert np.argwhere(risen(voxels(places), GRID)).tolist() == [[3, 3, 3], [126, 126, 2]]
    # The same in a room of voxels of 0.05 m, whose lengths are a quarter; and in blocks that do not fill a grid.
    room = VoxelGrid((0.0, 0.0, 0.0), 0.05, (9, 9, 6))
    assert np.argwhere(risen(voxels(places[:5], room), room)).tolist() == [[3, 3, 3]]
    truth = truth_of([(3, 3, 3), (7, 7, 2)], roads=[(0, 0, 1)], classes=False)
    assert np.argwhere(true_obstacles(truth)).tolist() == [[3, 3, 3]]


def test_ground_by_class_is_what_robots_stand_on() -> None:
    truth = truth_of([(3, 3, 3), (7, 7, 2), (9, 9, 0)], roads=[(0, 0, 1), (5, 5, 5)], unknown=[(9, 9, 0)])
    assert truth.label is not None
    truth.label[5, 6, 5] = OTHER_GROUND
    truth.occupied[5, 6, 5] = True
    assert np.argwhere(true_obstacles(truth)).tolist() == [[3, 3, 3], [7, 7, 2]]
    room = VoxelGrid((0.0, 0.0, 0.0), 0.05, (4, 4, 4))
    label = np.zeros(room.shape, np.uint8)
    label[0, 0, 0], label[1, 1, 1] = ROOM_CLASSES.index("floor"), ROOM_CLASSES.index("table")
    everywhere = np.ones(room.shape, bool)
    masks = label > 0, everywhere, everywhere
    furnished = VoxelTruth("", room, RigidTransform.identity(), *masks, label=label, class_map=ROOM_IDS)
    assert np.argwhere(true_obstacles(furnished)).tolist() == [[1, 1, 1]]


def test_average_precision_leaves_out_the_true_ground() -> None:
    """Ranked: road, a car, free, a car. Without the road: precision 1 at the first half, 2/3 at the second."""
    score = np.zeros(GRID.shape, np.float32)
    score[20, 64, 0], score[20, 64, 2], score[20, 64, 3], score[20, 64, 4] = 0.9, 0.8, 0.6, 0.4
    truth = truth_of([(20, 64, 2), (20, 64, 4)], roads=[(20, 64, 0)])
    found = rows_of(truth, score > 0.5, score)
    assert found["fixed", 25.6]["average_precision"] == pytest.approx((1.0 + 2.0 / 3.0) / 2.0)
