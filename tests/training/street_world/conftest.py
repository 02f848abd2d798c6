"""One small drive, built once."""

import pytest

from scene_completion_training.street_world.camera_rig import LidarModel, StreetRig, make_rig
from scene_completion_training.street_world.drive import StreetDrive

SEED = 1000  # a validation town


def small_rig(kind: str = "stereo") -> StreetRig:
    return make_rig(416, 128, LidarModel(beams=16, columns=360), kind)


@pytest.fixture(scope="session")
def drive() -> StreetDrive:
    return StreetDrive(SEED, 3, small_rig())
