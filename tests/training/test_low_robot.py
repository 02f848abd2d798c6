"""A delivery robot whose cameras see 100° from 0.4 m above the ground: recorded, trained, exported, completed with."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration, LossWeights
from scene_completion_training.data.view_batches import ViewSettings
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.export import export_bundle
from scene_completion_training.runner import train
from scene_completion_training.viewpoint import CameraSettings, Volume
from scene_completion_worlds.street.camera_rig import LEFT, make_rig
from scene_completion_worlds.street.drive import StreetDrive
from tests.training.small_trainings import small_data, small_training


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of four frames through a training town, rectified as `extract` does."""
    folder = tmp_path_factory.mktemp("towns") / "sequence"
    seen = CameraSettings(width=256, height=192, field_of_view=100.0).camera()
    rig = make_rig(256, 192, kind="delivery")
    rig = dataclasses.replace(rig, cameras=dict.fromkeys(rig.cameras, seen))
    StreetDrive(0, 4, rig, supersampling=1, rate_hz=20.0).sequence(assets=()).save(folder)
    return folder


@pytest.fixture(scope="module")
def trained(town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robot")
    views = ViewSettings(occupancy_points=4096)
    data = dataclasses.replace(small_data(town), fusion=FusionSettings(), views=views)
    view = CameraSettings(width=320, height=128, field_of_view=100.0, height_above_ground=0.4)
    changes = {"camera": view, "data": data, "losses": LossWeights(emptiness=0.1), "steps": 2, "prior_steps": 120}
    return train(Configuration(**small_training(town, folder, **changes)), threads=1)


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    folder = tmp_path_factory.mktemp("bundles") / "robot"
    return export_bundle(trained, folder, name="robot", licence="Apache-2.0", provenance={})


def test_the_checkpoint_and_the_bundle_remember_the_robots_camera(trained: Path, bundle: StudentBundle) -> None:
    viewpoint = Checkpoint.read(trained).viewpoint
    assert viewpoint.height_above_ground == 0.4 and viewpoint.volume == Volume.to_measure(0.4)
    canonical = bundle.canonical
    for camera in (viewpoint.camera, canonical):
        assert math.degrees(2.0 * math.atan(camera.width / 2 / camera.fx)) == pytest.approx(100.0, abs=0.01)
    assert (canonical.width, canonical.height) == (160, 64)  # images were halved to the end
    assert bundle.height_above_ground == 0.4
    assert bundle.grid == VoxelGrid((0.0, -6.4, -0.55), 0.05, (256, 256, 32))
    assert (bundle.point_code.near, bundle.point_code.far, bundle.depth_range) == (0.75, 20.0, (0.75, 20.0))


def test_it_completes_the_ground_where_it_is(bundle: StudentBundle, town: Path) -> None:
    """Of one of the robot's own images."""
    drive = PosedSequence.load(town)
    completer = Completer(bundle, drive.cameras[LEFT], engine="onnxruntime", threads=1)
    assert completer.warnings == []
    completion = completer.complete(drive.image(2, LEFT))
    grid = completion.voxels.grid
    assert np.isfinite(completion.alpha).all() and len(completion.voxels)
    x, y, z = grid.axis_centres()
    ahead, across = (x > 1.5) & (x < 4.0), np.abs(y) < 0.5
    by_height = completion.probability[ahead][:, across].mean(axis=(0, 1))
    surface = (completion.voxels.state == VoxelState.SURFACE)[ahead][:, across]
    heights = np.broadcast_to(z, surface.shape)[surface]
    assert np.median(heights) == pytest.approx(-0.4, abs=0.06)
    assert by_height[z > -0.2].max() < 0.5 * by_height[z < -0.3].max()
