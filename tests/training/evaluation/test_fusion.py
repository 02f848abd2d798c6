"""Ghosts: a case by hand."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.evaluation.metric import Scores, VoxelAnswer
from scene_completion_ros.evaluation.truth import FrameTruth, VoxelTruth, grown
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_training.evaluation.fusion import GHOSTS

GRID = VoxelGrid((0.0, 0.0, 0.0), 1.0, (12, 1, 1))


@dataclass(frozen=True, eq=False)
class Placed:
    truth: FrameTruth
    voxels: VoxelAnswer
    stamp_ns: int
    world_from_grid: RigidTransform
    depth: None = None


def row(*places: int) -> np.ndarray:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[list(places)] = True
    return mask


def frame(seconds: float, at: float, true: list[int], published: list[int], seen: range = range(12)) -> Placed:
    """A grid that begins at `at` on the x axis; voxels of it that are truly occupied, published as such, and seen."""
    pose, everywhere = RigidTransform(np.eye(3), np.array([at, 0.0, 0.0])), np.ones(GRID.shape, dtype=bool)
    in_view = row(*range(10))  # 10 and 11 are not
    truth = VoxelTruth("exact", GRID, RigidTransform.identity(), row(*true), everywhere, in_view, row(*seen))
    answer = VoxelAnswer(np.zeros(GRID.shape, np.float32), {"published": row(*published)})
    return Placed(FrameTruth(truth, None), answer, round(1e9 * seconds), pose)


def counts(*frames: Placed) -> dict[tuple[str, str], tuple[float, float]]:
    """Region and age -> voxels that were left, and ghosts among them, in all frames; where there are any."""
    scores = Scores([GHOSTS])
    scores.run("drives", [type("Said", (), {"name": "map", "answer": staticmethod(lambda one: one)})()], frames)
    rows = scores.rows("ghosts")
    total = {(one["region"], one["age"]): (one["frames"] * one["left"], one["frames"] * one["ghosts"]) for one in rows}
    return {key: value for key, value in total.items() if value[0]}


def test_what_was_left_and_is_still_called_occupied_by_hand() -> None:
    first = frame(0.0, 0.0, true=[4, 5], published=[4, 5])
    # The robot has moved by 1 m. World places 4 and 5 are 3 and 4 now: both were left 0.4 s ago, and 3 is a ghost.
    # 8, where nothing ever was, is an error, but no ghost.
    second = frame(0.4, 1.0, true=[6], published=[3, 6, 8])
    assert counts(first, second) == {("visible", "0.5 s"): (2.0, 1.0)}
    # A second later 3 is hidden, and published as occupied still; 4 was left again just now, by what had come back.
    again = frame(0.9, 1.0, true=[4], published=[])
    third = frame(1.4, 1.0, true=[], published=[3, 4], seen=range(4, 12))
    found = counts(first, second, again, third)
    assert found["visible", "0.5 s"] == (2.0 + 1.0 + 1.0, 1.0 + 1.0)  # 6 was left in the frame before, and again
    assert found["occluded", "2 s"] == (1.0, 1.0)


def test_neighbours_of_what_is_occupied_were_not_left() -> None:
    """A surface that stands still fills other voxels once the lattice has moved."""
    still = frame(0.0, 0.0, true=[4, 5], published=[4]), frame(0.2, 0.6, true=[4], published=[3, 4, 5])
    assert counts(*still) == {}
    block, expected = np.zeros((5, 5, 5), dtype=bool), np.zeros((5, 5, 5), dtype=bool)
    block[1, 2, 3] = expected[0:3, 1:4, 2:5] = True
    np.testing.assert_array_equal(grown(block), expected)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.5, {("out of view", "0.5 s"): (1.0, 1.0)}),
        *((seconds, {}) for seconds in (-1.0, 0.0, 5.1)),  # of another drive, or long ago
    ],
)
def test_what_is_out_of_view_counts_on_its_own_and_for_a_while(seconds: float, expected: dict[Any, Any]) -> None:
    assert counts(frame(0.0, 0.0, true=[11], published=[]), frame(seconds, 0.0, true=[], published=[11])) == expected
