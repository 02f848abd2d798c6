"""What a completion says of itself, and what the next image says of it, on voxels written out by hand."""

import numpy as np
import pytest

from scene_completion_ros.evaluation import self_doubt
from scene_completion_ros.evaluation.self_doubt import unsure_share, wrong_share
from scene_completion_ros.geometry.transforms import RigidTransform
from tests.mapping.small_voxels import COMPLETED, FREE, INFERRED, SURFACE, UNOBSERVED, voxels_of

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
