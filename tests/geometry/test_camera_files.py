"""Cameras from CameraInfo, camera_calibration's YAML and KITTI's files; every contradiction has its own message."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.geometry.camera_files import read_camera, read_kitti360_fisheye
from scene_completion_ros.geometry.camera_info import camera_from_camera_info
from scene_completion_ros.geometry.plausible_cameras import Doubt

K = [500.0, 0.0, 320.5, 0.0, 501.0, 239.5, 0.0, 0.0, 1.0]
P = [430.0, 0.0, 318.0, 0.0, 0.0, 432.0, 241.0, 0.0, 0.0, 0.0, 1.0, 0.0]
D = [-0.3, 0.1, 0.001, -0.0005, 0.0]
RATIONAL_D = [0.46, -2.44, 0.0008, -0.0003, 1.43, 0.34, -2.26, 1.35]


def camera_info(*, ros1: bool = False, **changes: object) -> SimpleNamespace:
    """A CameraInfo message of either ROS; arrays as rosbags and rclpy deliver them."""
    fields: dict[str, object] = {"k": np.array(K), "d": np.array(D), "p": np.array(P), "r": np.eye(3).reshape(-1)}
    fields |= {"width": 640, "height": 480, "distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0}
    fields |= {"roi": SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)}
    fields |= changes
    if ros1:
        fields = {name.upper() if name in "kdpr" else name: value for name, value in fields.items()}
    return SimpleNamespace(**fields)


@pytest.mark.parametrize("ros1", [False, True], ids=["ROS 2", "ROS 1"])
def test_camera_info_of_raw_and_of_rectified_images(ros1: bool) -> None:
    raw = camera_from_camera_info(camera_info(ros1=ros1, p=np.zeros(12)))
    assert raw == Camera(500.0, 501.0, 320.5, 239.5, 640, 480, "plumb_bob", tuple(D))
    rectified = camera_from_camera_info(camera_info(ros1=ros1, k=np.zeros(9)), rectified=True)
    assert rectified == Camera(430.0, 432.0, 318.0, 241.0, 640, 480)


@pytest.mark.parametrize(
    ("name", "coefficients", "model"),
    [
        ("plumb_bob", D[:4], "plumb_bob"),
        ("rational_polynomial", RATIONAL_D, "rational_polynomial"),
        ("rational_polynomial", [*RATIONAL_D, 0.0, 0.0, 0.0, 0.0], "rational_polynomial"),
        ("plumb_bob", [*D, 0.0, 0.0, 0.0], "plumb_bob"),
        ("equidistant", [0.01, -0.02, 0.003, 0.0, 0.0], "equidistant"),
        ("equidistant", [0.01, -0.02, 0.003, 0.0], "equidistant"),
        ("equidistant", [0.0, 0.0, 0.0, 0.0], "equidistant"),  # an ideal fisheye is no pinhole camera
        ("fisheye", [0.01, -0.02, 0.003, 0.0], "equidistant"),
        ("plumb_bob", [0.0] * 5, "none"),
        ("plumb_bob", [], "none"),
        ("", [], "none"),
        ("none", [], "none"),
    ],
)
def test_distortion_models(name: str, coefficients: list[float], model: str) -> None:
    camera = camera_from_camera_info(camera_info(distortion_model=name, d=np.array(coefficients)))
    assert camera.distortion_model == model
    assert any(camera.distortion) == any(coefficients)
    assert not any(coefficients[len(camera.distortion) :])


def roi(left: int, top: int, width: int, height: int) -> SimpleNamespace:
    return SimpleNamespace(x_offset=left, y_offset=top, width=width, height=height, do_rectify=False)


@pytest.mark.parametrize("rectified", [False, True])
def test_region_of_interest_and_binning_describe_the_published_image(rectified: bool) -> None:
    full = camera_from_camera_info(camera_info(), rectified=rectified)
    message = camera_info(roi=roi(100, 40, 401, 300), binning_x=2, binning_y=3)
    part = camera_from_camera_info(message, rectified=rectified)
    assert (part.width, part.height, part.fx, part.distortion) == (200, 100, full.fx / 2, full.distortion)
    point = np.array([0.1, -0.05, 2.0])
    u, v = full.project(point)[0]
    # Sensor pixels 100 and 101 make the first published column, so that 100.5 is its centre.
    np.testing.assert_allclose(part.project(point)[0], [(u - 100.5) / 2, (v - 41.0) / 3], atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "shift"),
    [
        ({"roi": roi(100, 40, 200, 150)}, (100.0, 40.0)),  # how to state a crop
        ({"width": 820, "height": 620}, (0.0, 0.0)),  # a lens that is mounted off the middle
        ({"width": 1280}, (0.0, 0.0)),  # half of a stereo pair in one image
    ],
)
def test_a_principal_point_off_the_middle_may_be_right(changes: dict[str, object], shift: tuple[float, float]) -> None:
    camera = camera_from_camera_info(camera_info(**changes))
    assert (camera.cx, camera.cy) == (320.5 - shift[0], 239.5 - shift[1])


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"k": np.zeros(9)}, "k", "all zero: the camera is not calibrated"),
        ({"k": np.array([math.nan, *K[1:]])}, "k", "not finite"),
        ({"k": np.array([-500.0, *K[1:]])}, "k", "focal lengths -500.0 and 501.0 are those of no lens"),
        ({"k": np.array([1e-300, *K[1:]])}, "k", "focal lengths 1e-300 and 501.0 are those of no lens"),
        ({"k": np.array(K).reshape(3, 3).T.reshape(-1)}, "k", r"not \[fx 0 cx; 0 fy cy; 0 0 1\]"),
        ({"k": np.array([K[0], 3.0, *K[2:]])}, "k", "skew is not supported"),
        ({"width": 0, "height": 0}, "width, height", "0x0 is empty"),
        ({"width": 320, "height": 480}, "k", "outside the image .*320x480.*: the calibration is that of another image"),
        ({"width": 320, "height": 240}, "k", "outside .*320x240.* 2 times larger, 640x480, or this image is a crop"),
        ({"width": 330, "height": 250}, "k", "far from the middle of the image .*330x250.*: .* 2 times larger"),
        ({"width": 1280, "height": 960}, "k", "1280x960.*: either .* of images 2 times smaller, 640x480, or"),
        ({"width": 1920, "height": 1440, "binning_x": 3, "binning_y": 3}, "k", "3 times smaller, 640x480"),
        ({"width": 960, "height": 720, "p": np.zeros(12)}, "k", "1.5 times smaller, 640x480"),
        ({"p": np.array(P) * ([0.5] * 8 + [1.0] * 4)}, "p", "P is K scaled by 0.4"),
        ({"d": np.array([math.nan] * 5)}, "d", "not finite"),
        ({"d": np.array(RATIONAL_D)}, "d", "plumb_bob has 5 coefficients, not 8"),
        ({"distortion_model": "rational_polynomial"}, "d", "rational_polynomial has 8 coefficients, not 5"),
        ({"d": np.array([0.1, 1e300, 0.0, 0.0, 0.0])}, "d", "beyond 1e.12"),
        ({"distortion_model": "equidistant", "d": np.array([])}, "d", "4 coefficients, not 0"),
        ({"distortion_model": ""}, "distortion_model", "is '' although there are coefficients"),
        ({"distortion_model": "mei"}, "distortion_model", "unknown distortion model 'mei'"),
        ({"roi": roi(600, 0, 100, 100)}, "roi", "does not fit"),
        ({"roi": roi(0, 0, 4, 4), "binning_x": 8}, "binning", "leaves nothing"),
        ({"ros1": True, "k": np.zeros(9)}, "K", "all zero"),  # named as in ROS 1
    ],
)
def test_contradictory_camera_info_names_field_and_cure(changes: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(CameraError, match=message) as caught:
        camera_from_camera_info(camera_info(**changes), where="/camera/camera_info")
    assert caught.value.where == f"/camera/camera_info, {field}"
    assert caught.value.cure
    with pytest.raises(CameraError, match="field K is missing"):
        camera_from_camera_info(SimpleNamespace(data=b""))
    with pytest.raises(CameraError, match="P is missing or all zero"):
        camera_from_camera_info(camera_info(p=np.zeros(12)), rectified=True)


def test_doubts_about_k_say_that_p_may_hold() -> None:
    """As kitti2bag writes it: K of the raw sensor, and P of the rectified images, which are recorded."""
    raw = np.array([625.0, 0.0, 399.5, 0.0, 625.0, 299.5, 0.0, 0.0, 1.0])
    rectified = np.array([400.0, 0.0, 318.0, 0.0, 0.0, 400.0, 241.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    doubts: list[Doubt] = []
    camera_from_camera_info(camera_info(k=raw, p=rectified), where="/info", doubts=doubts)
    (doubt,) = doubts
    assert (doubt.where, doubt.unusual) == ("/info, k", False)
    assert "images 1.25 times larger, 800x600, or this image is a crop" in str(doubt)
    assert "if the image is rectified, P holds: --rectified, or image.rectified of the node" in str(doubt)
    doubts.clear()
    camera_from_camera_info(camera_info(k=raw, p=rectified), doubts=doubts, rectified=True)
    assert doubts == []
    camera_from_camera_info(camera_info(k=raw, p=np.zeros(12)), doubts=doubts)
    assert "P holds" not in str(doubts[0])
    whole = camera_info(k=raw, p=np.zeros(12), width=800, height=600, roi=roi(0, 0, 640, 480))
    assert camera_from_camera_info(whole, doubts=(found := list[Doubt]())).width == 640 and not found


# YAML of camera_calibration


def calibration_yaml(folder: Path, **changes: object) -> Path:
    document: dict[str, object] = {
        "image_width": 640,
        "image_height": 480,
        "camera_name": "narrow_stereo",
        "camera_matrix": {"rows": 3, "cols": 3, "data": K},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": D},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": [1, 0, 0, 0, 1, 0, 0, 0, 1]},
        "projection_matrix": {"rows": 3, "cols": 4, "data": P},
    }
    document |= changes
    path = folder / "camera.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    return path


def test_yaml_of_raw_and_of_rectified_images(tmp_path: Path) -> None:
    path = calibration_yaml(tmp_path)
    raw = Camera(500.0, 501.0, 320.5, 239.5, 640, 480, "plumb_bob", tuple(D))
    assert read_camera(path) == read_camera(str(path), image_size=(640, 480)) == raw
    assert read_camera(path, rectified=True) == Camera(430.0, 432.0, 318.0, 241.0, 640, 480)
    path = calibration_yaml(tmp_path, projection_matrix=None)
    with pytest.raises(CameraError, match="projection_matrix: P is missing or all zero"):
        read_camera(path, rectified=True)
    path = calibration_yaml(tmp_path, projection_matrix=None, distortion_coefficients={"data": [0.0] * 5})
    assert read_camera(path, rectified=True) == Camera(500.0, 501.0, 320.5, 239.5, 640, 480)


def file_storage(folder: Path, values: dict[str, object], version: str = "") -> Path:
    """A YAML file as OpenCV itself writes it; `version`: the first line of another version of it."""
    path = folder / "opencv.yml"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for key, value in values.items():
        storage.write(key, value)
    storage.release()
    header, rest = path.read_text().split("\n", 1)
    path.write_text(f"{version or header}\n{rest}")
    return path


SIZE = {"image_width": 640, "image_height": 480}
MATRIX = np.array(K).reshape(3, 3)


@pytest.mark.parametrize("version", ["", "%YAML:1.0"])
@pytest.mark.parametrize(
    ("values", "model", "coefficients"),
    [
        ({"camera_matrix": MATRIX, "distortion_coefficients": np.array([D]).T}, "plumb_bob", D),
        ({"K": MATRIX, "D": np.array([RATIONAL_D])}, "rational_polynomial", RATIONAL_D),
        ({"Camera_Matrix": MATRIX, "Distortion_Coefficients": np.zeros((5, 1))}, "none", []),
        ({"K": MATRIX, "D": np.array(D[:4]), "fisheye_model": 1}, "equidistant", D[:4]),
        ({"K": MATRIX, "D": np.array(D[:4]), "distortion_model": "plumb_bob"}, "plumb_bob", [*D[:4], 0.0]),
    ],
)
def test_file_storage_of_opencv(
    tmp_path: Path, values: dict[str, object], model: str, coefficients: list[float], version: str
) -> None:
    expected = Camera(500.0, 501.0, 320.5, 239.5, 640, 480, model, tuple(coefficients))
    assert read_camera(file_storage(tmp_path, SIZE | values, version)) == expected
    path = file_storage(tmp_path, values, version)
    assert read_camera(path, image_size=(640, 480)) == expected
    with pytest.raises(CameraError, match="image_width: is missing"):
        read_camera(path)


KALIBR = """\
cam0:
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.3, 0.1, 0.001, -0.0005]
  distortion_model: radtan
  intrinsics: [500.0, 501.0, 320.5, 239.5]
  resolution: [640, 480]
  rostopic: /cam0/image_raw
cam1:
  T_cn_cnm1:
  - [1.0, 0.0, 0.0, -0.11]
  - [0.0, 1.0, 0.0, 0.0]
  - [0.0, 0.0, 1.0, 0.0]
  - [0.0, 0.0, 0.0, 1.0]
  camera_model: pinhole
  distortion_coeffs: [0.01, -0.02, 0.003, 1e-4]
  distortion_model: equidistant
  intrinsics: [500.0, 501.0, 320.5, 239.5]
  resolution: [640, 480]
cam2:
  camera_model: omni
  distortion_coeffs: [-0.3, 0.1, 0.001, -0.0005]
  distortion_model: radtan
  intrinsics: [1.3, 500.0, 501.0, 320.5, 239.5]
  resolution: [640, 480]
"""


def test_camchain_of_kalibr(tmp_path: Path) -> None:
    path = tmp_path / "camchain.yaml"
    path.write_text(KALIBR)
    intrinsics = (500.0, 501.0, 320.5, 239.5, 640, 480)
    first = Camera(*intrinsics, "plumb_bob", tuple(D))
    assert read_camera(f"{path}:cam0") == first
    assert read_camera(f"{path}:cam1") == Camera(*intrinsics, "equidistant", (0.01, -0.02, 0.003, 1e-4))
    assert read_camera(f"{path}:cam2") == Camera(*intrinsics, "mei", (1.3, *D[:4]))
    path.write_text(KALIBR.partition("cam1")[0])
    assert read_camera(path) == first


# KITTI

CALIB = """\
P0: 700 0 600 0 0 700 180 0 0 0 1 0
P2: 700 0 600 42 0 700 180 -0.1 0 0 1 0.003

Tr: 0 -1 0 0.01 0 0 -1 -0.05 1 0 0 -0.3
"""


def test_kitti_size_from_the_images_of_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "calib.txt"
    path.write_text(CALIB)
    (tmp_path / "image_2").mkdir()
    cv2.imwrite(str(tmp_path / "image_2" / "000000.png"), np.zeros((370, 1226), np.uint8))
    assert read_camera(f"{path}:P2") == Camera(700.0, 700.0, 600.0, 180.0, 1226, 370)


KITTI360_FISHEYE = """%YAML:1.0
---
model_type: MEI
camera_name: image_02
image_width: 1400
image_height: 1400
mirror_parameters:
   xi: 2.2134047507854890e+00
distortion_parameters:
   k1: 1.6798235660113681e-02
   k2: 1.6548773243373522e+00
   p1: 4.2223943394772046e-04
   p2: 4.2462134260997584e-04
projection_parameters:
   gamma1: 1.3363220825849971e+03
   gamma2: 1.3357883350012958e+03
   u0: 7.1694323510126321e+02
   v0: 7.0576498308221585e+02
"""


def test_kitti360_fisheye(tmp_path: Path) -> None:
    (tmp_path / "image_02.yaml").write_text(KITTI360_FISHEYE)
    lens = 2.2134047507854890, 1.6798235660113681e-2, 1.6548773243373522, 4.2223943394772046e-4, 4.2462134260997584e-4
    sizes = 1336.3220825849971, 1335.7883350012958, 716.94323510126321, 705.76498308221585, 1400, 1400
    assert read_kitti360_fisheye(tmp_path / "image_02.yaml") == Camera(*sizes, "mei", lens)


HALF_P = {"data": (np.array(P) * ([0.5] * 8 + [1.0] * 4)).tolist()}


def kalibr(old: str, new: str) -> str:
    return KALIBR.replace(old, new)


def own(**changes: object) -> Callable[[Path], None]:
    return lambda folder: calibration_yaml(folder, **changes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("camera.json", "{}", "no known kind of calibration file"),
        ("missing.yaml", None, "cannot be read"),
        ("missing.txt:P2", None, "cannot be read"),
        ("camera.yaml", own(distortion_model=None, distortion_coefficients={"data": D[:4]}), "may be those of any mod"),
        ("camera.yaml", own(distortion_model="rational_polynomial"), "distortion_coefficients: rational_polynomial ha"),
        ("camera.yaml", own(projection_matrix=HALF_P), "projection_matrix: P is K"),
        ("chain.yaml", KALIBR, "several cameras and none is named. Choose one of chain.yaml:cam0, chain.yaml:cam1"),
        ("chain.yaml:cam3", KALIBR, "has no camera 'cam3'"),
        ("chain.yaml:cam0", kalibr("pinhole", "ds"), "field cam0: camera model 'ds' with 4 intrinsics .*omni-radtan"),
        ("chain.yaml:cam0", kalibr("radtan", "fov"), "field cam0, distortion_model: unknown distortion model 'fov'"),
        ("chain.yaml:cam0", kalibr("[640, 480]", "[1280, 960]"), "cam0, intrinsics: .* 2 times smaller"),
        ("chain.yaml:cam2", kalibr("radtan", "equidistant"), "cam2: omni with the distortion equidistant is not supp"),
        ("calib.txt:P0", CALIB + "P1: 700 0 600\n", "line 5: P1 has 3 numbers instead of 12"),
        ("calib.txt:P0", "\nP0: 700 zero 600 0 0 700 180 0 0 0 1 0\n", "line 2: P0: could not convert"),
        ("calib.txt:P0", "P0 700 0 600 0 0 700 180 0 0 0 1 0\n", "line 1: not `name: numbers`"),
        ("calib.txt:P0", "P0: nan 0 600 0 0 700 180 0 0 0 1 0\n", "line 1: P0 is not finite"),
        ("calib.txt:P0", "", "holds no calibration"),
        ("image_02.yaml", KITTI360_FISHEYE.replace("MEI", "KANNALA_BRANDT"), "model_type: is 'KANNALA_BRANDT'"),
    ],
)
def test_malformed_files_are_refused_by_name(
    tmp_path: Path, name: str, text: str | Callable[[Path], None] | None, message: str
) -> None:
    """Missing fields and those of another type are tested with the documents of all readers."""
    path = tmp_path / name.partition(":")[0]
    if callable(text):
        text(tmp_path)
    elif text is not None:
        path.write_text(text)
    read = read_kitti360_fisheye if name == "image_02.yaml" else read_camera
    with pytest.raises(CameraError, match=message) as caught:
        read(f"{tmp_path}/{name}")
    assert str(path) in str(caught.value)
