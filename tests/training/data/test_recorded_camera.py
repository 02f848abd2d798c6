"""The canonical camera that recordings ask for, and lenses that a pinhole looks through."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.data.recorded_camera import recorded_height, viewpoint_of
from scene_completion_training.data.stereo import has_lens, rectified_sequence
from scene_completion_training.viewpoint import STREET_CAMERA, CameraSettings, Volume, VolumeSettings
from tests.training.synthetic_scene import BASELINE, CAMERA_HEIGHT, CENTRE, FOCAL, HEIGHT, WIDTH, ray_cast

AUTO = CameraSettings(field_of_view="auto", height_above_ground="auto")
KITTI = Camera(721.5, 721.5, 609.6, 172.9, 1242, 375)
FISHEYE = Camera(155.6, 155.6, 159.5, 119.5, 320, 240, "equidistant", (-0.018, 0.0012, 0.0, 0.0))


def drive(
    camera: Camera,
    *,
    provenance: dict[str, Any] | None = None,
    assets: dict[str, Callable[[], np.ndarray]] | None = None,
    images: dict[str, Callable[[], np.ndarray]] | None = None,
) -> PosedSequence:
    """Two frames of cameras that stand side by side, 1.2 m above the origin of their rig, and go ahead."""
    names = list(images or {"front": lambda: np.zeros((camera.height, camera.width, 3), np.uint8)})
    axes = OPTICAL_FROM_FORWARD.inverse().rotation
    return PosedSequence(
        name="drive",
        cameras=dict.fromkeys(names, camera),
        rig_from_camera={
            name: RigidTransform(axes, np.array([0.0, -BASELINE * number, 1.2])) for number, name in enumerate(names)
        },
        frames=[
            Frame(number, images or {}, RigidTransform(np.eye(3), np.array([number, 0.0, 0.0])), assets or {})
            for number in range(2)
        ],
        pose_source="made up",
        provenance=provenance or {},
    )


def test_kittis_camera_comes_out_as_the_streets() -> None:
    viewpoint, said = viewpoint_of(AUTO, VolumeSettings(), [drive(KITTI, provenance={"dataset": "KITTI"})])
    camera = viewpoint.camera
    assert (camera.width, camera.height) == (640, 192)
    assert camera.fx == pytest.approx(STREET_CAMERA.fx, rel=0.01) and camera.fy == camera.fx
    assert camera.cx == pytest.approx(KITTI.cx * 640 / 1242, abs=1.0)
    assert viewpoint.height_above_ground == 1.65 and viewpoint.volume == Volume()
    assert said == [
        "camera 1.65 m above the ground: as KITTI has it mounted",
        "field of view: the recordings see 81° (pinhole)",
    ]


def test_a_wide_lens_is_capped_and_its_pixels_are_not_made_up() -> None:
    measured = {"settings": {"camera_height": 0.4}}
    viewpoint, said = viewpoint_of(AUTO, VolumeSettings(), [drive(FISHEYE, provenance=measured)])
    camera = viewpoint.camera
    assert math.degrees(camera.horizontal_fov) == pytest.approx(100.0, abs=0.01)
    assert (camera.width, camera.height) == (384, 192)
    assert camera.fx == pytest.approx(FISHEYE.fx, rel=0.05)
    assert (viewpoint.height_above_ground, viewpoint.volume) == (0.4, Volume.to_measure(0.4))
    assert "120° (equidistant), of which a pinhole takes 100°" in said[1]
    sharp = dataclasses.replace(FISHEYE.resized(1280, 960))
    most = viewpoint_of(AUTO, VolumeSettings(), [drive(sharp, provenance=measured)])[0].camera
    assert most.width * most.height == pytest.approx(640 * 192, rel=0.1) and not most.width % 64 + most.height % 64


def test_the_ground_says_how_high_the_camera_stands() -> None:
    generator = np.random.default_rng(0)
    ground = generator.uniform((1.0, -5.0, -0.01), (20.0, 5.0, 0.01), (3000, 3)).astype(np.float32)
    wall = generator.uniform((1.0, 5.0, 0.0), (20.0, 5.1, 4.0), (2000, 3)).astype(np.float32)
    lidar = drive(KITTI, assets={"lidar": lambda: np.concatenate([ground, wall])})
    assert recorded_height([lidar]) == (pytest.approx(1.2, abs=0.03), "ground seen by LiDAR")
    pinhole = Camera(FOCAL, FOCAL, *CENTRE, WIDTH, HEIGHT)
    images = {"left": lambda: ray_cast(np.zeros(3))[0], "right": lambda: ray_cast(np.array([BASELINE, 0.0, 0.0]))[0]}
    stereo = drive(pinhole, images=images)
    assert recorded_height([stereo]) == (pytest.approx(CAMERA_HEIGHT, rel=0.04), "ground seen by stereo")
    with pytest.raises(ConfigurationError, match=r"cameras 1\.\d+ to 1\.6\d m above the ground"):
        recorded_height([lidar, stereo])


def test_a_lens_is_looked_through_by_a_pinhole() -> None:
    """A point is where the pinhole has it; depth and masks are the lens's at the same place."""
    rows = np.arange(240.0)[:, None] + np.zeros(320)
    sequence = drive(
        FISHEYE,
        images={"front": lambda: np.repeat(rows[..., None].astype(np.uint8), 3, axis=-1)},
        assets={"depth": lambda: rows, "ego_front": lambda: rows > 200.0},
    )
    canonical = CameraSettings(width=384, height=192, field_of_view=116.0).camera()
    seen = rectified_sequence(sequence, ["front"], canonical)
    camera = seen.cameras["front"]
    assert not has_lens(camera) and has_lens(FISHEYE)
    assert math.degrees(camera.horizontal_fov) > 110.0 and camera.fx == pytest.approx(FISHEYE.fx)
    points = np.array([[1.0, 0.3, 1.5], [-0.8, 0.2, 1.0]])
    lens, pinhole = (np.asarray(each.project(points)[0]) for each in (FISHEYE, camera))
    image, depth, ego = seen.image(0, "front"), seen.asset(0, "depth"), seen.asset(0, "ego_front")
    covered = seen.asset(0, "validity_front")
    assert depth is not None and ego is not None and covered is not None
    for (u, v), (_, row) in zip(np.round(pinhole).astype(int), lens, strict=True):
        assert image[v, u, 0] == pytest.approx(row, abs=1.5) and depth[v, u] == pytest.approx(row, abs=1.5)
        assert covered[v, u] and ego[v, u] == (depth[v, u] > 200.0)
    assert not covered.all() and depth[~covered].max() == 0.0  # wider than the lens
    assert rectified_sequence(seen, ["front"], canonical) is seen


def test_a_view_that_no_pinhole_has_is_refused() -> None:
    canonical = CameraSettings(width=384, height=192, field_of_view=160.0).camera()
    with pytest.raises(ConfigurationError, match="looks 80° aside. Take a field of view below 150°"):
        rectified_sequence(drive(FISHEYE), ["front"], canonical)
