"""Depth from the motion of one camera in a scene that is known exactly."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.geometry.depth_images import depth_at_rays
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.data import stereo
from scene_completion_training.data.stereo import MeasuredDepth, MotionStereo, epipolar_refined
from tests.training.synthetic_scene import CENTRE, FOCAL, HEIGHT, WIDTH, ray_cast

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
    pitched = RigidTransform(about(0, np.radians(0.5)), np.array([0.03, 0.0, -STEP]))
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
    stereo._add_mismatch(signs, second, stereo._OFFSETS, differ, seen)
    shown = second[3:-3, 3:-3] > 0
    expected = (signs != stereo._signs(second)).sum(axis=0)
    np.testing.assert_array_equal(differ, 3 + expected * shown)
    np.testing.assert_array_equal(seen, 1 + shown)
