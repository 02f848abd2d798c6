"""How memory counts by the parameters, and what its voxels are called where labels have got another meaning."""

from dataclasses import replace

import pytest

from scene_completion_ros.ros.join.scene_memory import label_of_no_class
from scene_completion_ros.ros.parameters.schema import NodeParameters
from tests.mapping.small_voxels import SURFACE, voxels_of

VOXELS = voxels_of([[[SURFACE]]])  # road, car, wall


@pytest.mark.parametrize(
    ("names", "ignored", "label"),
    [
        (("car", "tree", "unknown"), "auto", 2),
        (("road", "car", "wall"), "auto", 1),  # the first that is an obstacle
        (("road", "car", "wall"), "road, car", 2),
        (("road", "car", "wall"), "", 0),
        (("road", "terrain", "parking"), "auto", 0),  # there is none
    ],
)
def test_what_nobody_named_is_unknown_or_an_obstacle(names: tuple[str, ...], ignored: str, label: int) -> None:
    voxels = replace(VOXELS, class_names=names)
    assert label_of_no_class(voxels, NodeParameters(obstacle_ignored_classes=ignored)) == label
