"""What cameras of a rig and the LiDAR see of things whose place is known, and of a town."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from scene_completion_ros.geometry import RigidTransform
from scene_completion_worlds.street.camera_rig import (
    BASELINE_M,
    CAMERA_HEIGHT_M,
    LEFT,
    MOUNTING_ANGLE,
    RIGHT,
    SIDE_RIGHT,
    make_rig,
    mounted,
    viewing_directions,
)
from scene_completion_worlds.street.drive import StreetDrive
from scene_completion_worlds.street.kernels import texel_at
from scene_completion_worlds.street.parts import box
from scene_completion_worlds.street.scene import Renderer, Scene, scan, trace_view
from scene_completion_worlds.street.shading import Shader
from scene_completion_worlds.street.sky import Sky
from scene_completion_worlds.street.street_line import StreetClass
from scene_completion_worlds.street.textures import Texture, TextureAtlas
from tests.worlds.street.conftest import SEED, alone, small_rig


@pytest.fixture(scope="module")
def wall(drive: StreetDrive) -> Scene:
    """Nothing but a wall of 4 m by 6 m whose front is 10 m ahead of the rig's origin."""
    body = box((2.0, 4.0, 6.0), (11.0, 0.0, 3.0), "facade_0", StreetClass.BUILDING)
    return alone(drive, body)


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


def test_textures_are_sampled_at_the_level_of_the_footprint() -> None:
    image = np.zeros((4, 4, 4), np.float32)
    image[0, 1] = 1.0  # second texel of the top row
    atlas = TextureAtlas({"grey": Texture(np.full((2, 2, 4), 0.5, np.float32), (1, 1)), "dot": Texture(image, (1, 1))})
    assert texel_at(1, 0.375, 0.875, 1.0, *atlas.tables) == pytest.approx((1.0,) * 4)
    assert texel_at(1, 2.375, -0.125, 1.0, *atlas.tables) == pytest.approx((1.0,) * 4)
    assert texel_at(1, 0.1, 0.2, 4.0, *atlas.tables) == pytest.approx((1 / 16,) * 4, abs=2e-3)
    assert atlas.tile_m["dot"] == (1, 1)


def test_a_marker_lands_where_the_fisheye_projects_it(drive: StreetDrive) -> None:
    rig = small_rig("kitti360")
    camera, pose = rig.cameras[SIDE_RIGHT], rig.rig_from_camera[SIDE_RIGHT]
    middle = pose.translation + pose.rotation @ np.array([3.0, -0.8, 2.5])
    marker = box((0.3, 0.3, 0.3), (middle[0], middle[1], middle[2]), "cloth", StreetClass.TRAFFIC_SIGN)
    scene = alone(drive, marker)
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
