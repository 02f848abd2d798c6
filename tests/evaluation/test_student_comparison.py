"""Two students in a world of one wall: where they agree, and which one later frames prove right."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.evaluation.student_comparison import (
    OBSERVERS,
    ComparedFrame,
    ComparisonReport,
    StudentAnswer,
    StudentComparison,
    compared_voxels,
)
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid

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
