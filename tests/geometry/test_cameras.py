"""The camera model and lens distortion against OpenCV, the pixel convention, the refusal of impossible cameras."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry import Camera
from tests.geometry.conftest import CAMERAS, PLUMB_BOB_COEFFICIENTS, project_with_opencv

SMALL = Camera(fx=4.0, fy=5.0, cx=3.0, cy=1.5, width=8, height=4)


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"), [("numpy", "float64", 1e-8), ("torch", "float64", 1e-8), ("torch", "float32", 3e-3)]
)
def test_project_agrees_with_opencv(camera: Camera, kind: str, dtype: str, tolerance: float) -> None:
    rng = np.random.default_rng(3)
    rays = camera.unproject(rng.uniform([3.0, 3.0], [camera.width - 3.0, camera.height - 3.0], (800, 2)))
    points = rays[np.isfinite(rays).all(axis=1)][:400] * rng.uniform(1.0, 60.0, (400, 1))
    given = points.reshape(20, 20, 3).astype(dtype)
    pixels, valid = camera.project(torch.as_tensor(given) if kind == "torch" else given)
    assert valid.dtype == (torch.bool if kind == "torch" else bool)
    pixels, valid = np.asarray(pixels), np.asarray(valid)
    assert pixels.dtype == np.dtype(dtype) and valid.shape == (20, 20)
    np.testing.assert_allclose(pixels.reshape(-1, 2), project_with_opencv(camera, points), atol=tolerance)
    assert valid.all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_unproject_of_a_pixel_grid_inverts_project(camera: Camera, kind: str, dtype: str) -> None:
    pixels = camera.pixel_centres()[::16, ::16].astype(dtype)
    rays = camera.unproject(torch.as_tensor(pixels) if kind == "torch" else pixels)
    again, _ = camera.project(rays * 7.5)
    rays, again = np.asarray(rays), np.asarray(again)
    assert rays.dtype == np.dtype(dtype) and rays.shape == (*pixels.shape[:2], 3)
    seen = np.isfinite(rays).all(axis=-1)
    assert seen.mean() > 0.65 and (camera.distortion_model in ("equidistant", "mei") or seen.all())
    near = seen & (np.abs(rays[..., :2]).max(axis=-1) < 5.0)  # at 79° a float32 has no thousandth of a pixel left
    np.testing.assert_array_equal(rays[seen][:, 2], 1.0)
    np.testing.assert_allclose(again[near], pixels[near], atol=1e-8 if dtype == "float64" else 5e-3)


def test_unproject_is_nan_where_a_fisheye_has_no_ray() -> None:
    corner_and_centre = np.array([[0.0, 0.0], [421.0, 398.0]])
    rays = CAMERAS["equidistant"].unproject(corner_and_centre)
    assert np.isnan(rays).all(axis=-1).tolist() == [True, False]


def test_points_behind_or_not_a_number_are_invalid_without_warnings(camera: Camera) -> None:
    points = np.array([[0, 0, -5.0], [0, 0, 0.0], [1, 1, 1e-30], [math.nan, 0, 1], [0, 0, math.nan], [0, 0, 5.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels, valid = camera.project(points)
    assert valid.tolist() == [False, False, False, False, False, True]
    assert np.isfinite(pixels[:3]).all()


def test_mei_looks_beyond_90_degrees_but_has_no_ray_there() -> None:
    camera = CAMERAS["mei"]
    behind = project_with_opencv(camera, np.array([[1.0, 0.0, -0.02]]))[0]  # 91° off axis
    assert camera.contains(behind)
    assert np.isnan(camera.unproject(behind)).all()


def test_resized_by_hand() -> None:
    half = SMALL.resized(4, 2)
    assert (half.fx, half.fy, half.cx, half.cy) == (2.0, 2.5, 1.25, 0.5)  # pixel 0 and 1 become pixel 0, centre 0.5


def test_calibrations_agree_that_move_no_place_by_more_than_a_third_of_a_pixel(camera: Camera) -> None:
    right = max(camera.cx + 0.5, camera.width - 0.5 - camera.cx)
    assert camera.agrees(dataclasses.replace(camera, cx=camera.cx + 0.29))
    assert not camera.agrees(dataclasses.replace(camera, cx=camera.cx + 0.31))
    # A fisheye may see nothing in the corners, where this would move most.
    assert not camera.agrees(dataclasses.replace(camera, fx=camera.fx * (1 + 0.5 / right)))
    assert camera.agrees(dataclasses.replace(camera, fx=camera.fx * (1 + 0.2 / right)))
    assert not camera.agrees(camera.resized(2 * camera.width, 2 * camera.height))
    if camera.distortion:
        assert not camera.agrees(camera.without_distortion())


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"fx": math.inf}, "K", "fx = inf lies outside"),
        ({"fy": 1e300}, "K", "fy = 1e.300 lies outside"),
        ({"height": -1}, "height", "8x-1"),
        ({"width": 8.5}, "width", "whole number"),
        ({"distortion": (0.1,)}, "distortion", "none has 0 coefficients, not 1"),
        ({"distortion_model": "equidistant", "distortion": (0, 0, -1e13, 0)}, "distortion", "beyond 1e.12"),
    ],
)
def test_impossible_cameras_are_refused(change: dict[str, object], where: str, message: str) -> None:
    with pytest.raises(CameraError, match=message) as caught:
        dataclasses.replace(SMALL, **change)
    assert where in caught.value.where
    assert caught.value.cure or "whole number" in caught.value.what


FOLDING: dict[str, tuple[float, ...]] = {
    "plumb_bob": PLUMB_BOB_COEFFICIENTS,
    "rational_polynomial": (-0.5, 0.02, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0),
    "equidistant": (0.05, -0.2, 0.0, 0.0),
}


@pytest.mark.parametrize("model", FOLDING)
def test_a_lens_is_valid_as_far_as_its_distorted_radius_grows(model: str) -> None:
    """Beyond, points fold back into the image, where OpenCV takes them for visible."""
    camera = Camera(300.0, 300.0, 999.5, 4.5, 2000, 10, model, FOLDING[model])
    slope = np.tan(np.linspace(0.01, 1.55, 4000))
    points = np.stack([slope, 0.0 * slope, np.ones_like(slope)], axis=-1)
    growing = np.diff(project_with_opencv(camera, points)[:, 0]) > 0.0
    fold = int(np.argmin(growing))
    assert 100 < fold < 3900
    pixels, valid = camera.project(points)
    assert valid[: fold - 20].all() and not valid[fold + 20 :].any() and np.isfinite(pixels).all()
