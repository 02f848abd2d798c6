"""Depth from the motion of one camera in a scene that is known exactly, and cameras that recordings ask for."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, view_rotation
from scene_completion_ros.geometry.depth_images import depth_at_rays
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.data import stereo
from scene_completion_training.data.recorded_camera import recorded_height, viewpoint_of
from scene_completion_training.data.stereo import (
    MeasuredDepth,
    MotionStereo,
    epipolar_refined,
    has_lens,
    rectified_sequence,
)
from scene_completion_training.viewpoint import STREET_CAMERA, CameraSettings, Volume, VolumeSettings
from tests.training.synthetic_scene import BASELINE, CAMERA_HEIGHT, CENTRE, FOCAL, HEIGHT, WIDTH, ray_cast

Place: TypeAlias = tuple[float, float, float]
CAMERA = Camera(FOCAL, FOCAL, *CENTRE, WIDTH, HEIGHT)
REACH = 51.2
STEP = 1.3
FRAME = 2
"""Of five: it has two neighbours on each side."""


def drive(
    places: list[Place], change: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]] | None = None
) -> PosedSequence:
    """What a camera sees that looks along z from places in the synthetic scene; `change` draws into its images."""

    def image(number: int) -> NDArray[np.uint8]:
        seen = ray_cast(np.array(places[number]))[0]
        return seen if change is None else change(seen, number)

    frames = [
        Frame(number, {"front": partial(image, number)}, RigidTransform(np.eye(3), np.array(place)))
        for number, place in enumerate(places)
    ]
    return PosedSequence("drive", {"front": CAMERA}, {"front": RigidTransform.identity()}, frames, "drawn")


AHEAD = [(0.0, 0.0, STEP * number) for number in range(5)]
ASIDE = [(STEP * (number - FRAME), 0.0, 0.0) for number in range(5)]


@pytest.fixture(autouse=True, scope="module")
def small_images() -> object:
    """A quarter of the pixels, and of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stereo, "PIXELS", 30_000)
        yield


def truth(found: MeasuredDepth, place: Place) -> NDArray[np.float32]:
    return depth_at_rays(ray_cast(np.array(place))[1].astype(np.float32), CAMERA, found.camera)


@pytest.fixture(scope="module")
def ahead(small_images: object) -> MeasuredDepth:
    return MotionStereo(drive(AHEAD), "front", REACH)(FRAME)


@pytest.mark.parametrize("places", [AHEAD, ASIDE], ids=["ahead", "aside"])
def test_depth_is_as_exact_as_it_says(places: list[Place], ahead: MeasuredDepth) -> None:
    found = ahead if places is AHEAD else MotionStereo(drive(places), "front", REACH)(FRAME)
    true = truth(found, places[FRAME])
    known = found.depth > 0.0
    error = np.abs(found.depth - true)[known]
    assert known.mean() > 0.6
    assert np.median(error / true[known]) < 0.02
    assert (error <= 2.0 * found.deviation[known]).mean() > 0.75
    assert np.all(found.deviation[known] > 0.0)
    assert not found.deviation[~known].any()


def test_little_is_measured_around_the_focus_of_expansion(ahead: MeasuredDepth) -> None:
    found = ahead
    row, column = np.mgrid[: found.camera.height, : found.camera.width]
    away = np.hypot(row - found.camera.cy, column - found.camera.cx)
    assert (found.depth[away < 3.0] > 0.0).mean() < 0.5
    assert (found.depth[away > 50.0] > 0.0).mean() > 0.6
    relative = found.deviation / np.maximum(found.depth, 1.0)
    wall = (np.abs(truth(found, AHEAD[FRAME]) - (24.0 - AHEAD[FRAME][2])) < 0.1) & (found.depth > 0.0)
    near, far = (np.median(relative[wall & (away > low) & (away < low + 20.0)]) for low in (20.0, 100.0))
    assert near > 2.0 * far  # the same wall


def test_what_moves_is_not_measured(ahead: MeasuredDepth) -> None:
    """A patch that climbs through the image: no still thing moves like that when a camera goes ahead."""
    noise = np.random.default_rng(5).integers(0, 255, (10, 15)).astype(np.uint8)
    patch = cv2.resize(noise, (90, 60), interpolation=cv2.INTER_CUBIC)[..., None]

    def draw(image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        row, column = 100 - 18 * number, 420
        image[row : row + 60, column : column + 90] = patch
        return image

    still, moving = ahead, MotionStereo(drive(AHEAD, draw), "front", REACH)(FRAME)
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    mask[64 + 8 : 64 + 52, 420 + 8 : 420 + 82] = 1.0  # without its rim
    there = depth_at_rays(mask, CAMERA, still.camera) > 0.0
    assert (still.depth[there] > 0.0).mean() > 0.8
    assert (moving.depth[there] > 0.0).mean() < 0.1


def test_a_camera_that_stands_measures_nothing() -> None:
    meter = MotionStereo(drive([(0.0, 0.0, 0.01 * number) for number in range(5)]), "front", REACH)
    assert meter.neighbours(FRAME) == ([], [])
    assert not meter(FRAME).depth.any()


def test_images_correct_what_odometry_does_not_know() -> None:
    """A robot's pitch: half a degree of it would be three pixels."""
    grey = [cv2.cvtColor(ray_cast(np.array(AHEAD[number]))[0], cv2.COLOR_RGB2GRAY) for number in (0, 1)]
    true = RigidTransform(np.eye(3), np.array([0.0, 0.0, -STEP]))
    pitched = RigidTransform(view_rotation(pitch=np.radians(0.5)), np.array([0.03, 0.0, -STEP]))
    found = epipolar_refined(pitched, np.asarray(grey[0], np.uint8), np.asarray(grey[1], np.uint8), CAMERA)
    assert np.degrees(np.linalg.norm(cv2.Rodrigues(found.rotation)[0])) < 0.03
    assert np.linalg.norm(found.translation) == pytest.approx(np.linalg.norm(pitched.translation))
    assert np.linalg.norm(found.translation - true.translation) < 0.01
    blank = np.full_like(np.asarray(grey[0], np.uint8), 90)
    assert epipolar_refined(pitched, blank, blank, CAMERA) is pitched


def test_the_kernel_counts_as_its_readable_twin() -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.integers(0, 255, (23, 31)).astype(np.uint8) for _ in range(2))
    second[5:9, 7:20] = 0  # what a neighbour does not show
    signs = stereo._signs(first)
    differ, seen = np.full((17, 25), 3, np.uint16), np.ones((17, 25), np.uint16)
    stereo._mismatch()(signs, second, stereo._OFFSETS, differ, seen)
    shown = second[3:-3, 3:-3] > 0
    expected = (signs != stereo._signs(second)).sum(axis=0)
    np.testing.assert_array_equal(differ, 3 + expected * shown)
    np.testing.assert_array_equal(seen, 1 + shown)


# The canonical camera that recordings ask for, and lenses that a pinhole looks through.


AUTO = CameraSettings(field_of_view="auto", height_above_ground="auto")
KITTI = Camera(721.5, 721.5, 609.6, 172.9, 1242, 375)
FISHEYE = Camera(155.6, 155.6, 159.5, 119.5, 320, 240, "equidistant", (-0.018, 0.0012, 0.0, 0.0))


def two_frames(
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
    viewpoint, said = viewpoint_of(AUTO, VolumeSettings(), [two_frames(KITTI, provenance={"dataset": "KITTI"})])
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
    low = dataclasses.replace(AUTO, height_above_ground=0.4)
    viewpoint, said = viewpoint_of(low, VolumeSettings(), [two_frames(FISHEYE)])
    camera = viewpoint.camera
    assert math.degrees(camera.horizontal_fov) == pytest.approx(100.0, abs=0.01)
    assert (camera.width, camera.height) == (384, 192)
    assert camera.fx == pytest.approx(FISHEYE.fx, rel=0.05)
    assert (viewpoint.height_above_ground, viewpoint.volume) == (0.4, Volume.to_measure(0.4))
    assert "120° (equidistant), of which a pinhole takes 100°" in said[0]
    sharp = dataclasses.replace(FISHEYE.resized(1280, 960))
    most = viewpoint_of(low, VolumeSettings(), [two_frames(sharp)])[0].camera
    assert most.width * most.height == pytest.approx(640 * 192, rel=0.1) and not most.width % 64 + most.height % 64


def test_the_ground_says_how_high_the_camera_stands() -> None:
    generator = np.random.default_rng(0)
    ground = generator.uniform((1.0, -5.0, -0.01), (20.0, 5.0, 0.01), (3000, 3)).astype(np.float32)
    wall = generator.uniform((1.0, 5.0, 0.0), (20.0, 5.1, 4.0), (2000, 3)).astype(np.float32)
    lidar = two_frames(KITTI, assets={"lidar": lambda: np.concatenate([ground, wall])})
    assert recorded_height([lidar]) == (pytest.approx(1.2, abs=0.03), "ground seen by LiDAR")
    pinhole = Camera(FOCAL, FOCAL, *CENTRE, WIDTH, HEIGHT)
    images = {"left": lambda: ray_cast(np.zeros(3))[0], "right": lambda: ray_cast(np.array([BASELINE, 0.0, 0.0]))[0]}
    stereo = two_frames(pinhole, images=images)
    assert recorded_height([stereo]) == (pytest.approx(CAMERA_HEIGHT, rel=0.04), "ground seen by stereo")
    with pytest.raises(ConfigurationError, match=r"cameras 1\.\d+ to 1\.6\d m above the ground"):
        recorded_height([lidar, stereo])


def test_a_lens_is_looked_through_by_a_pinhole() -> None:
    """A point is where the pinhole has it; depth and masks are the lens's at the same place."""
    rows = np.arange(240.0)[:, None] + np.zeros(320)
    sequence = two_frames(
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
        rectified_sequence(two_frames(FISHEYE), ["front"], canonical)
