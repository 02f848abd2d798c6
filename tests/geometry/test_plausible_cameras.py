"""Which calibrations can be: cases worked out by hand, and those of real cameras, about which there is no doubt."""

import dataclasses
import re

import pytest

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.geometry.camera_info import is_rectified_topic
from scene_completion_ros.geometry.plausible_cameras import (
    STEADY,
    SteadyCamera,
    check_baseline,
    doubts_about,
    doubts_about_projection,
    varies_too_much,
)

PLAIN = Camera(500.0, 500.0, 319.5, 239.5, 640, 480)
KITTI = Camera(721.5377, 721.5377, 609.5593, 172.854, 1242, 375)
KITTI_360 = Camera(552.554261, 552.554261, 682.049453, 238.769549, 1408, 376)  # cropped: 27 % below the middle
NUSCENES = Camera(1259.5, 1259.5, 807.3, 501.2, 1600, 900)
REAL = {
    "KITTI": KITTI,
    "KITTI-360": KITTI_360,
    "KITTI-360, stretched to the 640x192 that networks take": KITTI_360.resized(640, 192),
    "nuScenes, CAM_BACK_RIGHT": NUSCENES,
    "nuScenes without the sky": NUSCENES.cropped(0, 300, 1600, 600),
    "half of a stereo pair": Camera(500.0, 500.0, 319.5, 239.5, 1280, 480),
    "rectified, with shifted principal points": Camera(3979.9, 3979.9, 1244.8, 1019.5, 2964, 2000),
    "telephoto lens with 6° of view": Camera(11700.0, 11700.0, 612.5, 184.5, 1226, 370),
    "pinhole images with 130°": Camera(149.0, 149.0, 319.5, 239.5, 640, 480),
    "circular fisheye with 220° in a wide image": Camera(
        281.0, 281.0, 959.5, 539.5, 1920, 1080, "equidistant", (0.0,) * 4
    ),
    "KITTI-360's fisheye": Camera(1336.3, 1335.8, 716.9, 705.8, 1400, 1400, "mei", (2.21, 0.016, 1.65, 0.0, 0.0)),
    "analogue video": Camera(545.0, 500.0, 359.5, 287.5, 720, 576),
}


@pytest.mark.parametrize("name", REAL)
def test_nothing_speaks_against_a_real_camera(name: str) -> None:
    assert doubts_about(REAL[name], "here") == []


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        (dataclasses.replace(PLAIN, fx=1e-3), "fx = 0.001 pixels in an image of width 640 .* 180°; .* in metres"),
        (dataclasses.replace(PLAIN, fx=4.0, fy=4.0), "width 640 is a field of view of 178.6°; .* in millimetres"),
        (dataclasses.replace(PLAIN, fy=1e6), "fy = 1e.06 pixels in an image of height 480 .* thousand times too large"),
        (Camera(0.8, 1.1, 0.5, 0.5, 640, 480), "perhaps it is divided by the size of the image"),
        (Camera(0.58, 0.77, 319.5, 239.5, 640, 480), "perhaps it is divided by the size of the image"),
        (Camera(1.8, 1.8, 319.5, 239.5, 640, 480, "equidistant", (0.0,) * 4), "in millimetres. .* 2° to 280°"),
        (
            dataclasses.replace(PLAIN, cx=1e5),
            "outside the image .100000.0, 239.5 of 640x480.: the calibration is that of anothe",
        ),
        (
            dataclasses.replace(KITTI, width=375, height=1242),
            "outside the image .* of 375x1242.: width and height, or cx and cy, look swapped",
        ),
        (Camera(1000.0, 1000.0, 639.5, 479.5, 640, 480), "images 2 times larger, 1280x960"),
        (Camera(300.0, 300.0, 190.0, 145.0, 640, 480), "images 1.5 times smaller, 427x320"),
    ],
)
def test_a_camera_that_cannot_be_is_refused_everywhere(camera: Camera, words: str) -> None:
    with pytest.raises(CameraError, match=words) as caught:
        doubts_about(camera, "here, k")
    assert caught.value.where == "here, k" and caught.value.cure


def scaled(camera: Camera, x: float, y: float) -> Camera:
    """K as after scaling, with the image as it was."""
    other = dataclasses.replace(camera, fx=camera.fx * x, cx=(camera.cx + 0.5) * x - 0.5)
    return dataclasses.replace(other, fy=camera.fy * y, cy=(camera.cy + 0.5) * y - 0.5)


@pytest.mark.parametrize(
    ("camera", "unusual", "words"),
    [
        (
            scaled(PLAIN, 1.25, 1.25),
            False,
            "far from the middle of the image .* 640x480.: .* images 1.25 times larger, 800x600, or",
        ),
        (scaled(PLAIN, 4 / 3, 4 / 3), False, "images 1.33 times larger, 853x640"),
        (scaled(KITTI, 0.8, 0.8), False, "times smaller"),
        (scaled(KITTI, 1.2, 1.2), False, "times larger"),
        (scaled(NUSCENES, 1.25, 1.25), False, "times larger"),
        # What the raw sensor of KITTI (1392x512) has, on rectified images of two days.
        (Camera(959.791, 956.9251, 696.0217, 224.1806, 1242, 375), False, "times larger"),
        (Camera(956.9475, 952.2352, 693.9767, 238.6081, 1224, 370), False, "times larger"),
        (
            scaled(PLAIN, 1.0, 1.5),
            False,
            "differ by a factor 1.5, as does .* fits an image whose height is 720 instead of",
        ),
        (scaled(KITTI, 0.75, 1.0), False, "differ by a factor 1.33, .* an image whose width is 9.. instead of 1242"),
        (
            KITTI_360.resized(512, 160),
            True,
            "fx = 200.929 and fy = 235.129 differ by a factor 1.17. This is right only",
        ),
        (
            dataclasses.replace(KITTI, cx=0.0),
            True,
            "the image .0.0, 172.9 of 1242x375.: this is right only if the image is a",
        ),
        (
            dataclasses.replace(KITTI, cx=789.6, cy=313.0),
            True,
            "a part of a larger one",
        ),  # a crop by (180, 140), not told
        (PLAIN.resized(640, 360), True, "fx = 500 and fy = 375 differ by a factor 1.33. This is right only for images"),
    ],
)
def test_another_mode_of_the_sensor_is_doubted_and_named(camera: Camera, unusual: bool, words: str) -> None:
    (doubt,) = doubts_about(camera, "here")
    assert doubt.unusual == unusual and re.search(words, str(doubt)), doubt


def test_p_is_compared_with_k_where_nothing_is_to_be_rectified() -> None:
    k = (500.0, 500.0, 319.5, 239.5)
    narrower = (250.0, 250.0, 319.5, 239.5)
    (doubt,) = doubts_about_projection(k, narrower, "here, p", distorted=False)
    assert doubt.unusual and "P has fx 250 and fy 250, but K, which is used, 500 and 500" in str(doubt)
    assert doubts_about_projection(k, narrower, "here", distorted=True) == []  # what a wide lens looks like, rectified
    assert doubts_about_projection(k, (520.0, 515.0, 330.0, 236.0), "here", distorted=False) == []
    with pytest.raises(CameraError, match="P is K scaled by 0.5: the two were calibrated at different image sizes"):
        doubts_about_projection(k, (250.0, 250.0, 159.5, 119.5), "here", distorted=True)


@pytest.mark.parametrize(
    ("metres", "column", "guess"),
    [
        (
            538.0,
            -380350.0,
            "538 m by P[3] = -380350: stereo rigs have 0.01 to 4 m (it would be 0.538 m if in millimetres)",
        ),
        (12.0, -8400.0, "(it would be 0.012 m if in millimetres, or 0.12 m if in centimetres)"),
        (0.0005, -0.25, "(it would be 0.5 m if divided by 1000, or 0.25 m if P[3] is in metres, without fx)"),
        (0.0001, None, "a stereo baseline of 0.0001 m: stereo rigs have 0.01 to 4 m (it would be 0.1 m if divided"),
        (
            1e9,
            None,
            "a stereo baseline of 1e+09 m: stereo rigs have 0.01 to 4 m. State the places of cameras in metres",
        ),
    ],
)
def test_a_baseline_that_cannot_be_is_refused_with_the_likely_unit(
    metres: float, column: float | None, guess: str
) -> None:
    with pytest.raises(CameraError, match=re.escape(guess)):
        check_baseline(metres, "here", column)
    for real in (0.02, 0.05, 0.12, 0.54, 2.3, 3.0):
        check_baseline(real, "here", -700.0 * real)


@pytest.mark.parametrize(
    "topic", ["/a/image_rect", "/a/rect/image", "/a/image_rect_color", "/left_rect", "/rectified/a"]
)
@pytest.mark.parametrize("ending", ["", "/compressed"])
def test_the_word_rect_marks_rectified_images(topic: str, ending: str) -> None:
    assert is_rectified_topic(topic + ending) and is_rectified_topic("/a/imageRect")


@pytest.mark.parametrize(
    "topic", ["/direct/image", "/a/rectangle", "/a/image_raw", "/correct_image", "/unrectified/image"]
)
def test_other_words_do_not(topic: str) -> None:
    assert not is_rectified_topic(topic)


def test_half_of_the_messages_and_each_of_them_have_their_limit() -> None:
    # Half the diagonal of the image is 400 pixels: half of the messages may be 4 pixels off, and none more than 16.
    assert not varies_too_much([0.0, 3.9, 3.9, 15.9, 1.0], PLAIN)
    assert varies_too_much([0.0, 4.1, 4.1], PLAIN)
    assert varies_too_much([0.0, 0.0, 0.0, 16.1], PLAIN)


def test_a_varying_calibration_is_kept_after_three_changes_until_one_lasts() -> None:
    steady = SteadyCamera()

    def takes(fx: float) -> bool:
        return steady.takes(dataclasses.replace(PLAIN, fx=fx, fy=fx))

    # A pixel more of focal length moves the corner by 400 / 500 pixels.
    taken = [fx for fx in (500.0, 501.0, 500.0, 502.0, 500.0, 503.0, 499.0) if takes(fx)]
    assert taken == [500.0, 501.0, 500.0, 502.0] and steady.varies_px == pytest.approx(2.4, abs=0.05)
    assert takes(540.0) and steady.camera is not None and steady.camera.fx == 540.0  # a zoom
    assert not takes(543.0)
    lasting = [takes(545.0) for _ in range(STEADY)]
    assert lasting.index(True) == STEADY - 1 and steady.varies_px == 0.0
