"""One small drive, built once."""

import copy

import pytest

from scene_completion_worlds.street.camera_rig import LidarModel, StreetRig, make_rig
from scene_completion_worlds.street.drive import StreetDrive
from scene_completion_worlds.street.parts import Part
from scene_completion_worlds.street.scene import Scene, build_scene

SEED = 1000  # a validation town


def small_rig(kind: str = "stereo") -> StreetRig:
    return make_rig(416, 128, LidarModel(beams=16, columns=360), kind)


@pytest.fixture(scope="session")
def drive() -> StreetDrive:
    return StreetDrive(SEED, 3, small_rig())


def alone(drive: StreetDrive, body: Part) -> Scene:
    """Nothing but a body, far above the ground of a drive."""
    world = copy.copy(drive.scene_at(0).world)
    world.parts = [body, drive.scene_at(0).world.parts[0].moved((0.0, 0.0, -50.0))]
    return build_scene(world)
