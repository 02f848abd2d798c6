"""A drive that is reconstructed once for all tests."""

from pathlib import Path

import pytest

from scene_completion_ros.geometry import RigidTransform
from scene_completion_training.extraction.structure_from_motion import Model, reconstruct
from tests.training.extraction.textured_street import CAMERA, drive, picture


@pytest.fixture(scope="session")
def driven() -> list[RigidTransform]:
    """Poses world_from_camera of a short drive."""
    return drive(14)


@pytest.fixture(scope="session")
def model(driven: list[RigidTransform], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Its reconstruction by one camera."""
    pytest.importorskip("pycolmap")
    folder: Path = tmp_path_factory.mktemp("model")
    images = {"camera": [picture(CAMERA, pose) for pose in driven]}
    return reconstruct(images, {"camera": CAMERA}, {"camera": RigidTransform.identity()}, folder)[0]
