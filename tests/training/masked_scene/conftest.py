"""A student that knows classes."""

import pytest

from scene_completion_ros.inference.bundle import StudentBundle
from tests.inference.small_bundle import make_small_bundle


@pytest.fixture(scope="session")
def labelled_student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A small student with random weights and four classes."""
    return make_small_bundle(tmp_path_factory.mktemp("labelled"), classes=4)
