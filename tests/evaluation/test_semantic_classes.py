"""Class maps, id by id, against the published tables."""

import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.semantic_classes import (
    SEMANTIC_KITTI_CLASSES,
    SEMANTIC_KITTI_OFFICIAL,
    SEMANTIC_KITTI_TO_COMMON,
    ClassMap,
)
from scene_completion_training.street_world.street_profile import StreetClass


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (SEMANTIC_KITTI_OFFICIAL, [*range(20)]),
        (SEMANTIC_KITTI_TO_COMMON, [0, 1, 2, 3, 4, 5, 6, 255, 255, 7, 8, 8, 12, 9, 10, 11, 11, 12, 13, 14]),
    ],
)
def test_every_id(mapping: ClassMap, expected: list[int]) -> None:
    np.testing.assert_array_equal(mapping.apply(np.arange(len(expected))), expected)
    np.testing.assert_array_equal(mapping.apply(np.array([[-1], [255]])), [[255], [255]])
    assert mapping.apply(np.array([1, 255], np.uint8)).dtype == np.uint8
    np.testing.assert_array_equal(mapping.apply(np.array([1, -1], np.int8)), [expected[1], 255])
    with pytest.raises(GridError, match=rf"ids \[{len(expected)}\] are none of"):
        mapping.apply(np.array([0, len(expected)]))
    with pytest.raises(GridError, match=r"ids \[-2, 300\]"):
        mapping.apply(np.array([300, -2, 1]))
    assert mapping.apply(np.zeros((0, 3), int)).shape == (0, 3)


def test_the_street_world_speaks_semantic_kitti() -> None:
    assert [entry.name.lower().replace("_", "-") for entry in StreetClass][1:] == list(SEMANTIC_KITTI_CLASSES[1:])
