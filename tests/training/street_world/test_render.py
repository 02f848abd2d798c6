import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest

from scene_completion_ros.geometry import RigidTransform
from scene_completion_training.street_world.camera_rig import BASELINE_M, CAMERA_HEIGHT_M, LEFT, RIGHT, make_rig
from scene_completion_training.street_world.drive import StreetDrive
from scene_completion_training.street_world.parts import box
from scene_completion_training.street_world.scene import Scene, build_scene, scan, trace_view
from scene_completion_training.street_world.street_profile import StreetClass
from scene_completion_training.street_world.town import TownPlan
from tests.training.street_world.conftest import SEED, small_rig


@pytest.fixture(scope="module")
def wall(drive: StreetDrive) -> Scene:
    """Nothing but a wall of 4 m by 6 m whose front is 10 m ahead of the rig's origin."""
    body = box((2.0, 4.0, 6.0), (11.0, 0.0, 3.0), "facade_0", StreetClass.BUILDING)
    below = drive.scene_at(0).parts[0].moved((0.0, 0.0, -50.0))
    world = copy.copy(drive.scene_at(0).world)
    world.parts = [body, below]
    return build_scene(world)


def test_depth_and_extent_of_a_known_wall(wall: Scene) -> None:
    rig = make_rig(416, 128)
    camera = rig.cameras[LEFT]
    view = trace_view(wall, camera, rig.rig_from_camera[LEFT])
    building = view.label == StreetClass.BUILDING
    assert view.depth[building] == pytest.approx(10.0, abs=1e-4)
    left, right = (camera.cx + camera.fx * (BASELINE_M / 2 - y) / 10.0 for y in (2.0, -2.0))
    columns = np.flatnonzero(building.any(axis=0))
    assert (columns[0], columns[-1]) == (int(np.ceil(left)), int(np.floor(right)))
    foot = camera.cy + camera.fy * CAMERA_HEIGHT_M / 10.0
    assert np.flatnonzero(building.any(axis=1))[-1] == int(np.floor(foot))


def test_lidar_measures_the_known_wall(wall: Scene) -> None:
    rig = small_rig()
    model = replace(rig.lidar, noise_m=0.0, dropout=0.0)
    points, label = scan(wall, model, RigidTransform(np.eye(3), np.array([0.0, 0.0, 1.75])), (SEED, 0))
    on_wall = points[label == StreetClass.BUILDING]
    assert len(on_wall) > 50
    assert on_wall[:, 0] == pytest.approx(10.0, abs=1e-3)
    assert np.abs(on_wall[:, 1]).max() <= 2.0 + 1e-3


def test_same_seed_same_drive_and_other_seed_other_drive(drive: StreetDrive) -> None:
    again = StreetDrive(SEED, 3, small_rig())
    image = drive.image(1, LEFT)
    assert np.array_equal(image, again.image(1, LEFT))
    assert np.array_equal(drive.lidar(1), again.lidar(1))
    assert np.array_equal(drive.view(1).depth, again.view(1).depth)
    other = TownPlan(SEED + 1, 100.0)
    assert not np.allclose(other.line.point(80.0, 0.0), drive.plan.line.point(80.0, 0.0))
    assert other.daylight.cloud_seed != drive.plan.daylight.cloud_seed


def test_right_image_warped_by_depth_is_the_left_image(drive: StreetDrive) -> None:
    camera = drive.rig.cameras[LEFT]
    left, right = drive.image(0, LEFT), drive.image(0, RIGHT)
    depth, depth_right = drive.view(0, LEFT).depth, drive.view(0, RIGHT).depth
    u, v = np.meshgrid(np.arange(camera.width, dtype=np.float32), np.arange(camera.height, dtype=np.float32))
    x = u - camera.fx * BASELINE_M / depth
    warped = cv2.remap(right, x, v, cv2.INTER_LINEAR)
    seen = cv2.remap(depth_right, x, v, cv2.INTER_NEAREST, borderValue=0.0)
    finite = np.where(np.isfinite(depth), depth, 1e4)
    known = (finite < 1e4) & (np.abs(seen - finite) < 0.03 * finite)
    assert known.mean() > 0.4
    error = np.abs(left.astype(int) - warped).mean(axis=-1)
    unwarped = np.abs(left.astype(int) - right).mean(axis=-1)
    assert np.median(error[known]) < 5.0
    assert error[known].mean() < 0.4 * unwarped[known].mean()


def test_an_image_is_the_area_mean_of_a_finer_one(drive: StreetDrive) -> None:
    pose, camera = drive.world_from_camera(0, LEFT), drive.rig.cameras[LEFT]
    renderer = drive.renderer_at(0)
    fine, _ = renderer.light(camera.resized(2 * camera.width, 2 * camera.height), pose)
    coarse, dark = renderer.light(camera, pose)
    shrunk = cv2.resize(fine, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk - coarse).mean() < 0.06 * coarse.mean()
    assert not dark.any()
