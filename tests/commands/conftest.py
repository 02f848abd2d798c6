"""A student of a flat road, so that what the commands write can be compared with the truth."""

import dataclasses

import numpy as np
import pytest

from scene_completion_ros.geometry.grids import DEFAULT_GRID
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import HeadWeights
from tests.inference.small_bundle import (
    class_colours,
    class_names,
    make_small_bundle,
    road_head,
    small_bank,
    small_space,
    with_labels,
)

CAMERA_HEIGHT = 1.6  # metres above the road: a face of the default grid, half a voxel from the nearest centres


def flat_road_head() -> HeadWeights:
    """The road of `road_head` alone, so steep that the features of an image do not matter to it."""
    head = road_head(road_below_camera=CAMERA_HEIGHT)
    for values in (head.positional_weight, head.hidden_bias, head.density_weight):
        values[1:] = 0.0
    head.positional_weight[0] *= 2500.0
    head.hidden_bias[0] *= 2500.0
    head.density_weight[0] = 1.0
    return dataclasses.replace(head, density_bias=np.array([-20.0], dtype=np.float32))


@pytest.fixture(scope="session")
def labelled_road(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """The same with labels of three classes."""
    folder = tmp_path_factory.mktemp("bundle") / "labelled_road"
    head = with_labels(flat_road_head(), 3)
    return make_small_bundle(folder, head=head, class_names=class_names(3), class_colours=class_colours(3))


@pytest.fixture(scope="session")
def wordy_road(labelled_road: StudentBundle, tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """With labels, and a text bank whose words have nothing to do with what is there."""
    folder = tmp_path_factory.mktemp("bundle") / "wordy_road"
    bundle = labelled_road.save(folder, labelled_road.read_encoder())
    return bundle.with_vocabulary([small_space()], small_bank())


@pytest.fixture(scope="session")
def flat_road(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_bundle(tmp_path_factory.mktemp("bundle") / "flat_road", head=flat_road_head())


@pytest.fixture(scope="session")
def short_road(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """The same on a small grid, for tests that look at no voxels."""
    grid = dataclasses.replace(DEFAULT_GRID, origin=(0.0, -6.4, -2.2), shape=(64, 64, 16))
    return make_small_bundle(tmp_path_factory.mktemp("bundle") / "short_road", head=flat_road_head(), grid=grid)
