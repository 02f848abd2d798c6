"""Resampling against OpenCV's undistortion and against ramps, whose values are known between the pixels too."""

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import ImageError
from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.geometry.depth_images import sparse_depth
from scene_completion_ros.geometry.resampling import decoder_shrink
from tests.geometry.conftest import CAMERAS, project_with_opencv


def picture(camera: Camera) -> np.ndarray:
    """A smooth colourful picture with every direction of edge, uint8 [H, W, 3]."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    waves = [np.sin(u / 19.0 + v / 31.0), np.cos(v / 17.0), np.sin(np.hypot(u - camera.cx, v - camera.cy) / 23.0)]
    return np.round(127.5 + 120.0 * np.stack(waves, axis=-1)).astype(np.uint8)


def opencv_maps(source: Camera, target: Camera, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where OpenCV samples the source, with R taking source directions to target directions."""
    if source.distortion_model == "mei":
        rays = target.unproject(target.pixel_centres()).reshape(-1, 3) @ rotation
        columns, rows = project_with_opencv(source, rays).reshape(target.height, target.width, 2).transpose(2, 0, 1)
        return columns.astype(np.float32), rows.astype(np.float32)
    module = cv2.fisheye if source.distortion_model == "equidistant" else cv2
    size, coefficients = (target.width, target.height), np.array(source.distortion)
    return module.initUndistortRectifyMap(source.matrix, coefficients, rotation, target.matrix, size, cv2.CV_32FC1)


@pytest.mark.parametrize("turned", [False, True], ids=["straight", "turned"])
def test_undistortion_agrees_with_opencv(camera: Camera, turned: bool) -> None:
    width, height = int(0.6 * camera.width), int(0.6 * camera.height)  # the middle, with the source's focal length
    target = Camera(camera.fx, camera.fx, (width - 1) / 2 + 5.3, (height - 1) / 2 - 3.7, width, height)
    source_from_target = cv2.Rodrigues(np.array([0.05, -0.1, 0.08]))[0] if turned else np.eye(3)
    columns, rows = opencv_maps(camera, target, source_from_target.T)
    image = picture(camera)
    expected = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    resampler = Resampler(camera, target, source_from_target_rotation=source_from_target if turned else None)
    result = resampler(image)
    assert result.dtype == np.uint8 and result.shape == (target.height, target.width, 3)
    covered = resampler.validity
    difference = np.abs(result.astype(int) - expected.astype(int))[covered]
    assert difference.max() <= 2 and difference.mean() < 0.2
    inside = (columns >= -0.5) & (columns < camera.width - 0.5) & (rows >= -0.5) & (rows < camera.height - 0.5)
    assert (inside != covered).sum() <= 2  # float32 maps against float64 ones


SOURCE = Camera(700.0, 690.0, 611.3, 187.1, 1241, 376)
SHAPES = {
    "same size": Camera(700.0, 690.0, 611.3, 187.1, 1241, 376),
    "shifted": Camera(700.0, 690.0, 580.55, 170.25, 1100, 350),
    "a third": Camera(700.0 / 3, 690.0 / 3, 203.0, 61.0, 410, 122),
    "odd ratio": Camera(371.2, 367.7, 319.5, 95.5, 620, 190),
    "tenth": Camera(70.0, 69.0, 60.0, 18.0, 120, 36),
    "enlarged": Camera(1500.0, 1480.0, 640.0, 200.0, 1280, 400),
}


@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
@pytest.mark.parametrize("name", SHAPES)
def test_ramps_keep_their_place(name: str, axis: int) -> None:
    """A pixel-centre mistake would show as half a source pixel, or as half the shrinking factor."""
    target = SHAPES[name]
    resampler = Resampler(SOURCE, target)
    focal, centre = ((target.fx, target.cx), (target.fy, target.cy))[axis]
    source_focal, source_centre = ((SOURCE.fx, SOURCE.cx), (SOURCE.fy, SOURCE.cy))[axis]
    expected = (target.pixel_centres()[..., axis] - centre) / focal * source_focal + source_centre
    size = (SOURCE.width, SOURCE.height)[axis]
    shrink = max(1.0, source_focal / focal)
    inner = resampler.validity & (expected > shrink) & (expected < size - 1 - shrink)  # not averaged over the border
    assert inner.mean() > 0.9
    ramp = np.ascontiguousarray(SOURCE.pixel_centres()[..., axis].astype(np.float32))  # its value is its coordinate
    error = (resampler(ramp) - expected)[inner]
    assert np.abs(error).max() < 0.02 * shrink + 0.05  # 1/64 pixel from the fixed-point maps, 1/16 from area averaging
    assert abs(error.mean()) < 0.01 * shrink


@pytest.mark.parametrize(
    ("size", "focal", "shrink"),
    [
        ((80, 40), (100.0, 100.0), 1),
        ((80, 40), (27.6, 27.6), 1),
        ((80, 40), (27.4, 27.4), 2),
        ((80, 40), (13.7, 13.7), 4),
        ((80, 40), (1.0, 1.0), 8),
        ((84, 40), (1.0, 1.0), 4),  # 84 is no multiple of 8
        ((80, 41), (1.0, 1.0), 1),
        ((80, 40), (10.0, 25.0), 2),  # the finer axis decides
    ],
)
def test_a_decoder_may_leave_out_what_the_target_does_not_show(
    size: tuple[int, int], focal: tuple[float, float], shrink: int
) -> None:
    source = Camera(100.0, 100.0, 39.5, 19.5, *size)
    target = Camera(*focal, 9.5, 4.5, 20, 10)
    assert decoder_shrink(source, target) == Resampler(source, target).shrink == shrink


@pytest.mark.parametrize(("focal", "shrink"), [(27.0, 2), (19.0, 2), (13.0, 4), (6.0, 8)])
def test_an_image_averaged_down_before_gives_the_same_as_a_whole_one(focal: float, shrink: int) -> None:
    source = Camera(100.0, 100.0, 79.5, 39.5, 160, 80)
    resampler = Resampler(source, Camera(focal, focal, 19.5, 9.5, 40, 20))
    image = picture(source)
    mean = cv2.resize(image, (160 // shrink, 80 // shrink), interpolation=cv2.INTER_AREA)
    difference = np.abs(resampler(mean).astype(int) - resampler(image).astype(int))
    assert difference.max() <= 4 and difference.mean() < 1.0  # rounded twice, and weighted in two steps
    with pytest.raises(ImageError, match="20x20 pixels, but the camera is calibrated for 160x80"):
        resampler(cv2.resize(image, (20, 20), interpolation=cv2.INTER_AREA))


def test_what_lies_behind_the_source_is_invalid() -> None:
    backwards = np.diag([-1.0, 1.0, -1.0])
    assert not Resampler(SOURCE, SHAPES["a third"], source_from_target_rotation=backwards).validity.any()


def test_mei_is_not_blurred_by_the_length_of_its_gamma() -> None:
    """On its axis MEI shows gamma / (1 + xi) pixels per unit: a pinhole of that focal length resolves as much."""
    mei = CAMERAS["mei"]
    assert mei.axial_focal_lengths[0] == pytest.approx(1336.3 / 3.2134)
    pixels, _ = mei.project(np.array([[0.0, 0.0, 1.0], [1e-4, 0.0, 1.0]]))
    assert (pixels[1] - pixels[0])[0] / 1e-4 == pytest.approx(mei.axial_focal_lengths[0], rel=1e-3)
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 4), (mei.height, mei.width // 8))
    target = Camera(mei.axial_focal_lengths[0], mei.axial_focal_lengths[0], 99.5, 49.5, 200, 100)
    assert Resampler(mei, target)(stripes).std() > 100.0


def test_points_fall_into_the_pixel_of_their_centre_and_the_nearest_stays() -> None:
    camera = Camera(fx=10.0, fy=10.0, cx=2.0, cy=1.0, width=5, height=3)
    points = np.array(
        [
            [0.0, 0.0, 8.0],  # pixel (2, 1), behind the next one
            [0.0, 0.0, 5.0],
            [0.0, 0.0, 9.0],
            [0.49, 0.0, 10.0],  # u = 2.49: still the pixel whose centre is 2
            [0.51, 0.0, 10.0],  # u = 2.51
            [-2.49, 0.0, 10.0],  # u = -0.49: inside the edge of the first column
            [-2.51, 0.0, 10.0],  # outside
            [0.0, 0.0, -4.0],  # behind the camera
        ],
        dtype=np.float32,
    )
    expected = np.zeros((3, 5), dtype=np.float32)
    expected[1, 2], expected[1, 3], expected[1, 0] = 5.0, 10.0, 10.0
    np.testing.assert_array_equal(sparse_depth(points, camera), expected)
    assert not sparse_depth(points[:0], camera).any()
