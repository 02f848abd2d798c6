import copy

import numpy as np
import pytest

from scene_completion_ros.geometry import DEFAULT_GRID, RigidTransform
from scene_completion_training.street_world.camera_rig import (
    CAMERA_HEIGHT_M,
    LEFT,
    MOUNTING_ANGLE,
    RIGHT,
    SIDE_LEFT,
    SIDE_RIGHT,
    make_rig,
    mounted,
    viewing_directions,
)
from scene_completion_training.street_world.drive import StreetDrive
from scene_completion_training.street_world.parts import box
from scene_completion_training.street_world.scene import Renderer, build_scene, trace_view
from scene_completion_training.street_world.shading import Shader
from scene_completion_training.street_world.sky import Sky
from scene_completion_training.street_world.street_profile import StreetClass
from tests.training.street_world.conftest import small_rig


def test_side_cameras_look_sideways_from_the_roof() -> None:
    rig = make_rig(1242, 375, kind="kitti360")
    for name, side in ((SIDE_LEFT, 1), (SIDE_RIGHT, -1)):
        pose, camera = rig.rig_from_camera[name], rig.cameras[name]
        assert pose.rotation[:, 2] == pytest.approx((0.0, side, 0.0), abs=1e-12)
        assert pose.rotation[:, 1] == pytest.approx((0.0, 0.0, -1.0), abs=1e-12)
        assert pose.translation[0] < 0 < side * pose.translation[1]
        assert pose.translation[2] > CAMERA_HEIGHT_M
        assert (camera.width, camera.height) == (700, 700)
        assert np.rad2deg(camera.horizontal_fov) == pytest.approx(185.0, abs=0.5)
    assert make_rig(640, 192, kind="kitti360").cameras[SIDE_LEFT].width == 360


def test_a_marker_lands_where_the_fisheye_projects_it(drive: StreetDrive) -> None:
    rig = small_rig("kitti360")
    camera, pose = rig.cameras[SIDE_RIGHT], rig.rig_from_camera[SIDE_RIGHT]
    middle = pose.translation + pose.rotation @ np.array([3.0, -0.8, 2.5])
    marker = box((0.3, 0.3, 0.3), (middle[0], middle[1], middle[2]), "cloth", StreetClass.TRAFFIC_SIGN)
    below = drive.scene_at(0).parts[0].moved((0.0, 0.0, -50.0))
    world = copy.copy(drive.scene_at(0).world)
    world.parts = [marker, below]
    scene = build_scene(world)
    view = trace_view(scene, camera, pose)
    v, u = np.nonzero(view.label == StreetClass.TRAFFIC_SIGN)
    expected, valid = camera.project(pose.inverse().apply(middle))
    assert valid
    assert (u.mean(), v.mean()) == pytest.approx(tuple(expected), abs=1.0)
    assert view.depth[v, u].mean() == pytest.approx(2.5, abs=0.2)
    image = Renderer(scene, Shader(scene, Sky(drive.plan.daylight)).colour, 1).image(camera, pose, (0, 0))
    dark = np.isnan(viewing_directions(camera, camera.pixel_centres())[..., 0])
    assert (image[dark] == 0).all()
    assert (image[~dark].max(axis=-1) > 0).mean() > 0.95


def test_the_bar_is_mounted_a_little_askew_and_stays_rectified() -> None:
    rig = small_rig("kitti360")
    angles = []
    for seed in range(40):
        askew = mounted(rig, seed)
        left, right = askew.rig_from_camera[LEFT], askew.rig_from_camera[RIGHT]
        assert np.allclose(left.rotation, right.rotation)
        between = left.inverse() @ right
        assert between.translation == pytest.approx((0.54, 0.0, 0.0), abs=1e-9)
        assert (left.translation + right.translation) / 2 == pytest.approx((0.0, 0.0, CAMERA_HEIGHT_M))
        angles.append(np.arcsin(-left.rotation[2, 2]))
    assert 0.5 * MOUNTING_ANGLE < np.max(np.abs(angles)) <= MOUNTING_ANGLE + 1e-9
    assert isinstance(askew.rig_from_lidar, RigidTransform)


def test_a_delivery_robot_has_wide_lenses_near_the_ground() -> None:
    rig = make_rig(kind="delivery")
    left, right = (rig.rig_from_camera[name].translation for name in (LEFT, RIGHT))
    assert (left + right) / 2 == pytest.approx((0.0, 0.0, 0.4)) and left[1] - right[1] == pytest.approx(0.12)
    camera = rig.cameras[LEFT]
    assert camera == rig.cameras[RIGHT] and (camera.width, camera.height) == (1280, 960)
    assert camera.distortion_model == "equidistant" and np.rad2deg(camera.horizontal_fov) == pytest.approx(120.0)
    assert rig.grid.voxel_size == 0.05 and rig.grid.origin[2] < -0.4
    assert make_rig().grid == make_rig(kind="kitti360").grid == DEFAULT_GRID
    pitched = mounted(rig, 3).rig_from_camera[LEFT]
    assert pitched.translation == pytest.approx(left, abs=1e-3) and not np.allclose(
        pitched.rotation, rig.rig_from_camera[LEFT].rotation, atol=1e-4
    )
