"""How memory counts by the parameters, and what its voxels are called where labels have got another meaning."""

from dataclasses import replace

import numpy as np
import pytest

from scene_completion_ros.mapping.temporal_fusion import FusionSettings
from scene_completion_ros.ros.inference_thread import label_of_no_class, settings_of
from scene_completion_ros.ros.parameters import NodeParameters
from tests.mapping.small_voxels import COMPLETED, INFERRED, SURFACE, UNOBSERVED, voxels_of
from tests.mapping.test_temporal_fusion import GRID, TENTH, at, fuse, make

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


@pytest.mark.parametrize(
    ("forget_after", "kept"),
    [
        (5.0, {3: COMPLETED, 5: INFERRED, 6: UNOBSERVED}),
        (60.0, {6: COMPLETED, 36: COMPLETED, 61: UNOBSERVED}),
        (0.0, {6: COMPLETED, 61: COMPLETED, 300: COMPLETED}),
    ],
)
def test_a_loaded_map_lasts_out_of_view_as_long_as_the_parameter_says(
    forget_after: float, kept: dict[int, int]
) -> None:
    settings = settings_of(NodeParameters(fusion_forget_after=forget_after))
    before, after = make(), make(**vars(settings))
    fuse(before, np.full(GRID.shape, 0.99), 0, at())
    after.begin_with(before.remembered(), 0, at())
    out_of_view = np.full(GRID.shape, np.nan)
    for second in range(max(kept) + 1):
        state = fuse(after, out_of_view, 10 * second * TENTH, at()).voxels.state
        assert second not in kept or (state == kept[second]).all(), second


def test_by_default_the_node_remembers_as_long_as_the_map_does() -> None:
    assert settings_of(NodeParameters()) == FusionSettings(seen_for=0.0)
