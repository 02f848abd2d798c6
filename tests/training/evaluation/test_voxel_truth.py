from __future__ import annotations

import numpy as np

from scene_completion_training.evaluation.voxel_truth import street_truth
from scene_completion_training.street_world.ground_truth import BELOW_GROUND, IN_VIEW, INTERIOR, VISIBLE
from tests.training.evaluation.one_wall import GRID


def test_regions_of_the_street_world_by_hand() -> None:
    #  visible free, visible wall, hidden free, hidden wall, inside of a house, below ground, out of view
    flags = np.array([3, 3, 1, 1, 1 | 8, 1 | 4, 0], dtype=np.uint8)
    label = np.array([0, 5, 0, 5, 5, 0, 5], dtype=np.uint8)
    assert (IN_VIEW, VISIBLE, BELOW_GROUND, INTERIOR) == (1, 2, 4, 8)
    truth = street_truth(label, flags, GRID)
    assert truth.occupied.tolist() == [False, True, False, True, True, False, True]
    assert truth.known.tolist() == [True] * 5 + [False, True]
    counted = {name: np.flatnonzero(mask & truth.known).tolist() for name, mask in truth.regions.items()}
    assert counted == {
        "visible": [0, 1],
        "occluded": [2, 3],
        "all": [0, 1, 2, 3],
        "interiors": [4],
        "occluded + interiors": [2, 3, 4],
        "all + interiors": [0, 1, 2, 3, 4],
    }
