"""Two students in a world of one wall: where they agree, and which one later frames prove right."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.evaluation import self_doubt
from scene_completion_ros.evaluation.self_doubt import unsure_share, wrong_share
from scene_completion_ros.evaluation.student_comparison import (
    OBSERVERS,
    ComparedFrame,
    ComparisonReport,
    StudentAnswer,
    StudentComparison,
    compared_voxels,
)
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from tests.mapping.small_voxels import COMPLETED, FREE, INFERRED, SURFACE, UNOBSERVED, voxels_of

GRID = VoxelGrid((0.0, -4.0, -2.0), 0.5, (32, 16, 8))  # 16 m ahead: frames 0.94 m apart, places of 8 m
CAMERA = Camera(fx=80.0, fy=80.0, cx=63.5, cy=63.5, width=128, height=128)
WALL_M = 60.25  # ahead of where the robot begins
ALL = compared_voxels(np.ones(GRID.shape, np.bool_))


def ahead(way: float) -> RigidTransform:
    return RigidTransform(np.eye(3), np.array([way, 0.0, 0.0]))


def answer(way: float, wall_m: float = WALL_M, *, sees: float = WALL_M, camera: Camera = CAMERA) -> StudentAnswer:
    """A student that calls all free but a wall, and whose depth ends at a wall it may take to be elsewhere."""
    x = GRID.axis_centres()[0] + way
    occupied = np.abs(x - wall_m) < 0.5 * GRID.voxel_size
    probability = np.broadcast_to(np.where(occupied, 0.9, 0.1)[:, None, None], GRID.shape)
    depth = np.full((camera.height, camera.width), sees - way, np.float32)
    return StudentAnswer(probability.astype(np.float32).reshape(-1)[ALL], depth, camera)


def frame(
    number: int, way: float, answers: tuple[StudentAnswer, StudentAnswer], *, posed: bool = True
) -> ComparedFrame:
    pose = ahead(way) if posed else None
    return ComparedFrame(number, (answers[0], answers[1]), ALL, DEFAULT_GRID_FROM_CAMERA, pose)


def driven(first: float, second: float, ways: NDArray[np.float64], *, posed: bool = True) -> ComparisonReport:
    """What is known after a drive with two students that take the wall to be somewhere."""
    comparison = StudentComparison(GRID, (0.5, 0.5))
    for number, way in enumerate(ways):
        comparison.add(frame(number, way, (answer(way, first), answer(way, second)), posed=posed))
    return comparison.report()


WAYS = np.arange(0.0, 56.0, 1.0)


def test_the_student_that_later_frames_prove_right_is_better_whichever_comes_first() -> None:
    report = driven(WALL_M, WALL_M + 1.5, WAYS)
    assert report.better == 0
    by_measure = {one.measure: one for one in report.comparisons}
    assert by_measure["iou"].old == 1.0 and by_measure["iou"].new == 0.0
    assert by_measure["average_precision"].high < 0.0
    assert report.frames == len(WAYS)
    assert report.judged == len(WAYS) - OBSERVERS
    assert report.voxels > 1000
    assert driven(WALL_M + 1.5, WALL_M, WAYS).better == 1


def test_equal_students_agree_and_none_is_better() -> None:
    report = driven(WALL_M, WALL_M, WAYS)
    assert (report.occupied_alike, report.depth_alike, report.better) == (1.0, 1.0, None)
    assert all(one.gain == 0.0 for one in report.comparisons)


def test_what_the_two_do_not_see_alike_judges_nothing() -> None:
    """A tenth of the distance apart, in every image."""
    comparison = StudentComparison(GRID, (0.5, 0.5))
    for number, way in enumerate(WAYS):
        comparison.add(frame(number, way, (answer(way), answer(way, sees=way + 1.1 * (WALL_M - way)))))
    report = comparison.report()
    assert (report.depth_alike, report.voxels, report.better) == (0.0, 0, None)


def test_without_poses_and_at_rest_there_is_agreement_alone() -> None:
    for report in (driven(WALL_M, WALL_M + 0.5, WAYS, posed=False), driven(WALL_M, WALL_M + 0.5, 50.0 + 0.0 * WAYS)):
        assert (report.frames, report.judged, report.comparisons, report.better) == (len(WAYS), 0, (), None)
        assert report.occupied_alike == 0.0
        assert report.depth_alike == 1.0
    assert math.isnan(StudentComparison(GRID, (0.5, 0.5)).report().occupied_alike)


@pytest.mark.parametrize("how", ["interrupted", "time went back", "jumped"])
def test_frames_are_not_judged_across_a_break(how: str) -> None:
    comparison = StudentComparison(GRID, (0.5, 0.5))
    for number, way in enumerate(WAYS[:OBSERVERS]):
        comparison.add(frame(100 + number, way, (answer(way), answer(way))))
    if how == "interrupted":
        comparison.interrupt()
    later, shift = (0, 0.0) if how == "time went back" else (200, 40.0 if how == "jumped" else 0.0)
    for number, way in enumerate(WAYS[OBSERVERS : 2 * OBSERVERS] + shift):
        comparison.add(frame(later + number, way, (answer(way), answer(way))))
    assert comparison.report().judged == 0
    comparison.add(frame(later + 100, WAYS[2 * OBSERVERS] + shift, (answer(0.0), answer(0.0))))
    assert comparison.report().judged == 1


SHAPE = (20, 9, 9)
STILL = RigidTransform.identity()


def states(around: int = FREE, **voxels: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    state = np.full(SHAPE, around, np.uint8)
    for name, places in voxels.items():
        for place in places:
            state[place] = {"surface": SURFACE, "completed": COMPLETED, "unobserved": UNOBSERVED}[name]
    return state


def test_a_student_is_unsure_where_it_expects_occupied_voxels_to_be_free() -> None:
    state = states(surface=((3, 3, 3),), completed=((4, 3, 3),))
    voxels = voxels_of(state, probabilities={(3, 3, 3): 0.9, (4, 3, 3): 0.4})
    assert unsure_share(voxels) == pytest.approx(0.35)
    assert unsure_share(voxels_of(states())) == 0.0


def test_what_a_later_image_sees_through_was_wrong() -> None:
    then = voxels_of(states(surface=((3, 4, 4),), completed=((10, 4, 4), (15, 4, 4))))
    now = voxels_of(states(surface=((3, 4, 5),)))  # a voxel beside the first: confirmed
    assert wrong_share(then, now, STILL) == pytest.approx(2 / 3)
    assert wrong_share(then, then, STILL) == 0.0


@pytest.mark.parametrize("around", [INFERRED, UNOBSERVED])
def test_what_a_later_image_does_not_see_counts_for_nothing(around: int) -> None:
    then = voxels_of(states(completed=((10, 4, 4), (15, 4, 4))))
    assert wrong_share(then, voxels_of(states(around)), STILL) == 0.0
    beside = states()
    beside[10, 4, 5] = around  # one of the 27
    now = voxels_of(beside)
    assert wrong_share(then, now, STILL) == 1.0  # of the other one alone
    beside[15, 3, 3] = around
    assert wrong_share(then, voxels_of(beside), STILL) == 0.0


def test_the_robot_has_moved_meanwhile() -> None:
    then = voxels_of(states(surface=((10, 4, 4), (12, 6, 4))))
    now = voxels_of(states(surface=((7, 4, 4), (9, 6, 4))))  # three metres on
    moved = RigidTransform(np.eye(3), np.array([-3.0, 0.0, 0.0]))
    assert wrong_share(then, now, moved) == 0.0
    assert wrong_share(then, now, STILL) == 1.0


def test_what_is_far_from_the_camera_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    then = voxels_of(states(surface=((3, 4, 4),), completed=((15, 4, 4),)))
    now = voxels_of(states(surface=((3, 4, 4),)))
    assert wrong_share(then, now, STILL) == 0.5
    monkeypatch.setattr(self_doubt, "REACH_M", 12.0)
    assert wrong_share(then, now, STILL) == 0.0
