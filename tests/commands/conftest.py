"""A student of a flat road, so that what the commands write can be compared with the truth."""

import dataclasses
import resource
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from scene_completion_ros.geometry.grids import DEFAULT_GRID
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import HeadWeights, PointCodeSpec
from tests.inference.small_bundle import (
    CANONICAL,
    CHANNELS,
    class_colours,
    class_names,
    make_small_bundle,
    small_bank,
    small_space,
    with_labels,
)

CAMERA_HEIGHT = 1.6  # metres above the road: a face of the default grid, half a voxel from the nearest centres


def flat_road_head() -> HeadWeights:
    """Opaque below the road, transparent above: both are linear in the point code's y~ and z~.

    A point lies below the road where (v - cy) / fy > height / z, v being its pixel row and z its depth.
    """
    code = PointCodeSpec()
    inverse_range = 1.0 / code.near - 1.0 / code.far
    of_y = CANONICAL.height / (2.0 * CANONICAL.fy)
    of_z = -0.5 * CAMERA_HEIGHT * inverse_range
    constant = (CANONICAL.height / 2.0 - 0.5 - CANONICAL.cy) / CANONICAL.fy
    constant -= CAMERA_HEIGHT * (0.5 * inverse_range + 1.0 / code.far)
    steep = 1e5  # the random features of the small bundle's encoder must not matter
    positional = np.zeros((CHANNELS, code.size), dtype=np.float32)
    positional[0, 1], positional[0, 2] = steep * of_y, steep * of_z
    bias = np.zeros(CHANNELS, dtype=np.float32)
    bias[0] = steep * constant
    weight = np.zeros(CHANNELS, dtype=np.float32)
    weight[0] = 1.0
    return HeadWeights(positional, bias, weight, np.array([-20.0], dtype=np.float32))


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


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of more than 20 kB can be written, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
