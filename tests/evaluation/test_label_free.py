"""Verdicts of later frames and scores without labels, against cases computed by hand."""

import math

import numpy as np
import pytest

from scene_completion_ros.evaluation.label_free import (
    DepthObservation,
    LabelFreeScores,
    Verdict,
    compare,
    in_sight,
    judge,
)
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid

GRID = VoxelGrid((0.0, -2.0, -2.0), 0.5, (30, 8, 8))
CAMERA = Camera(fx=40.0, fy=40.0, cx=31.5, cy=31.5, width=64, height=64)
AHEAD = (slice(None), 4, 4)  # the voxels just beside the optical axis
WALL = 20
"""A wall 10.25 m ahead stands in the middle of this voxel."""


def view(depth: float | np.ndarray, deviation: float = 0.0, ahead: float = 0.0) -> DepthObservation:
    """What a camera so many metres ahead of the grid's measures."""
    image = np.broadcast_to(np.asarray(depth, np.float32), (64, 64)).copy()
    pose = DEFAULT_GRID_FROM_CAMERA @ RigidTransform(np.eye(3), np.array([0.0, 0.0, ahead]))
    return DepthObservation(image, np.full((64, 64), deviation, np.float32), CAMERA, pose)


def verdict_of(free: list[int], occupied: list[int], shape: tuple[int, int, int]) -> Verdict:
    masks = [np.isin(np.arange(math.prod(shape)), voxels).reshape(shape) for voxels in (free, occupied)]
    return Verdict(*masks)


def test_a_wall_is_occupied_and_what_lies_before_it_free() -> None:
    found = judge([view(10.25)], GRID)
    assert np.flatnonzero(found.occupied[AHEAD]).tolist() == [WALL]
    # A voxel is free up to its far corner, 0.43 m behind its centre: 9.75 m + 0.43 m < 10.25 m. The nearest two fill
    # more than 32 pixels to each side and are not judged.
    assert np.flatnonzero(found.free[AHEAD]).tolist() == list(range(1, WALL))
    assert not found.known[WALL + 1 :].any()
    assert not found.free[:, 0, 0][:3].any()  # beside the image


def test_the_error_of_depth_leaves_a_margin() -> None:
    found = judge([view(10.25, deviation=0.2)], GRID)
    assert np.flatnonzero(found.free[AHEAD]).max() == WALL - 2  # 9.25 m + 0.43 m < 10.25 m - 2 · 0.2 m < 10.18 m
    assert found.occupied[AHEAD][WALL]
    unsure = judge([view(10.25, deviation=0.6)], GRID)  # by more than a voxel
    assert not unsure.occupied.any()
    assert unsure.free[AHEAD][:WALL].any()


def test_later_frames_see_what_was_hidden() -> None:
    assert not judge([view(10.25)], GRID).free[AHEAD][WALL + 3]
    beyond = judge([view(10.25), view(3.0, ahead=11.0)], GRID)  # it drove through the gate and stands at 11 m
    assert beyond.free[AHEAD][WALL + 3]
    assert beyond.occupied[AHEAD][28]


def test_a_pole_beside_the_centre_keeps_a_voxel_from_being_free() -> None:
    depth = np.full((64, 64), 10.25, np.float32)
    depth[:, 29] = 5.25  # centres of the row lie at 31.5 - 40 · 0.25 / z: two pixels beside at 7 m
    free = judge([view(depth)], GRID).free[AHEAD]
    assert free[9]
    assert not free[11:].any()


def test_unmeasured_pixels_say_nothing() -> None:
    for nothing in (0.0, np.inf, np.nan):
        assert not judge([view(nothing)], GRID).known.any()
    assert not judge([], GRID).known.any()


def test_views_that_contradict_each_other() -> None:
    through, ends = view(14.9), view(10.25)
    assert not judge([through, ends], GRID).known[AHEAD][WALL]
    assert judge([through, through, through, ends], GRID).free[AHEAD][WALL]
    assert judge([through, ends, ends, ends], GRID).occupied[AHEAD][WALL]


def test_what_a_frame_sees_now_and_what_it_hides() -> None:
    depth = np.full((64, 64), 10.25, np.float32)
    depth[:, :16] = 0.0
    seen, hidden = in_sight(view(depth), GRID)
    assert np.flatnonzero(seen[AHEAD]).tolist() == list(range(1, WALL + 1))  # 10.75 m - 0.43 m > 10.25 m
    assert np.flatnonzero(hidden[AHEAD]).tolist() == list(range(WALL + 1, 30))
    assert not (seen | hidden)[8, 7].any()  # to the left, where nothing was measured


SMALL = VoxelGrid((0.0, -1.0, 0.0), 1.0, (3, 2, 1))


def small_scores(probabilities: list[float], threshold: float = 0.5) -> LabelFreeScores:
    """Six voxels: two seen and free, two hidden of which one is occupied, one seen and occupied, one unknown."""
    scores = LabelFreeScores(SMALL, threshold, (2.0, 3.0))
    seen = np.array([1, 1, 0, 0, 1, 1], np.bool_).reshape(SMALL.shape)
    verdict = verdict_of([0, 1, 2], [3, 4], SMALL.shape)
    scores.add(np.array(probabilities, np.float32).reshape(SMALL.shape), seen, verdict)
    return scores


def test_scores_by_hand() -> None:
    found = small_scores([0.1, 0.6, 0.2, 0.4, 0.9, 0.3]).compute()
    hidden = found["hidden now", 2.0]
    assert (hidden.voxels, hidden.occupied_share, hidden.iou) == (2, 0.5, 0.0)
    assert hidden.average_precision == 1.0
    assert hidden.brier == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert hidden.log_loss == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
    seen = found["seen now", 2.0]
    assert (seen.voxels, seen.occupied_share, seen.iou) == (2, 0.0, 0.0)
    assert math.isnan(seen.average_precision)
    everything = found["all", 3.0]
    assert everything.voxels == 5  # the sixth is unknown
    assert everything.iou == pytest.approx(1 / 3)  # 0.9 hits, 0.6 is a false alarm, 0.4 a miss
    assert everything.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert everything.brier == pytest.approx((0.1**2 + 0.6**2 + 0.2**2 + 0.6**2 + 0.1**2) / 5, abs=1e-6)


def test_certainty_that_is_wrong_costs_a_bounded_loss() -> None:
    found = small_scores([1.0] * 6).compute()["all", 3.0]
    assert found.log_loss == pytest.approx(-(3 * math.log(1e-3) + 2 * math.log(1 - 1e-3)) / 5)


def test_depth_errors_by_hand() -> None:
    scores = LabelFreeScores(SMALL, 0.5, (3.0,))
    nothing = Verdict(np.zeros(SMALL.shape, np.bool_), np.zeros(SMALL.shape, np.bool_))
    predicted, measured = np.array([[11.0, 5.0, np.nan, 7.0]]), np.array([[10.0, 4.0, 8.0, 0.0]])
    scores.add(np.zeros(SMALL.shape, np.float32), nothing.free, nothing, depth=(predicted, measured))
    assert scores.depth_abs_rel == pytest.approx((0.1 + 0.25) / 2)


def of_places(gains: list[float]) -> tuple[LabelFreeScores, LabelFreeScores]:
    """Old and new model, two frames a place; the new one is right about one voxel more or less by so much."""
    old, new = LabelFreeScores(SMALL, 0.5, (3.0,)), LabelFreeScores(SMALL, 0.5, (3.0,))
    verdict = verdict_of([0, 1, 2], [3], SMALL.shape)
    for place, gain in enumerate(gains):
        for _ in range(2):
            for scores, more in ((old, 0.0), (new, gain)):
                probability = np.array([0.1, 0.1, 0.1, 0.5 + more, 0.0, 0.0], np.float32).reshape(SMALL.shape)
                scores.add(probability, verdict.free, verdict, place=place)
    return old, new


def test_a_gain_everywhere_is_a_gain_and_a_loss_is_worse() -> None:
    found = compare(*of_places([0.2] * 8), "brier")
    assert found.old == pytest.approx((3 * 0.01 + 0.25) / 4)
    assert found.gain == pytest.approx((0.25 - 0.09) / 4)
    assert found.low == pytest.approx(found.gain)
    assert found.better_by(0.039)
    assert not found.better_by(0.041)
    assert compare(*of_places([0.2] * 8), "log_loss").gain == pytest.approx(math.log(0.7 / 0.5) / 4)
    found = compare(*of_places([-0.2] * 8), "iou")
    assert (found.old, found.new, found.gain) == (1.0, 0.0, -1.0)
    assert not found.not_worse_by(0.5)
