"""Cameras from CameraInfo messages, and what any calibration is checked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry import cameras
from scene_completion_ros.geometry.cameras import FOCAL_LENGTHS, Camera, DistortionModel, checked_distortion
from scene_completion_ros.geometry.plausible_cameras import Doubt, doubts_about, doubts_about_projection
from scene_completion_ros.picture_files import LARGEST_IMAGE

_MODEL_NAMES: dict[str, DistortionModel] = {
    "": "none",
    "none": "none",
    "pinhole": "none",
    "plumb_bob": "plumb_bob",
    "radtan": "plumb_bob",
    "rational_polynomial": "rational_polynomial",
    "equidistant": "equidistant",
    "fisheye": "equidistant",
    "kannala_brandt": "equidistant",
}
_RECTIFIED = "; if the image is rectified, P holds: --rectified, or image.rectified of the node"
_UNCALIBRATED = "Calibrate the camera (for example with camera_calibration) or give a calibration file"


@dataclass(frozen=True)
class Calibration:
    """What CameraInfo and calibration files say, not yet trusted."""

    width: int
    height: int
    matrix: NDArray[np.float64]  # K [9]
    projection: NDArray[np.float64]  # P [12], or empty
    model: str
    coefficients: NDArray[np.float64]  # D
    where: str  # of the whole
    names: Mapping[str, str]  # field -> its name in this source


def topic_words(topic: str) -> list[str]:
    """The words of a topic, in lower case: "/left/imageRect_color" has left, image, rect and color."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+", topic)]


def is_rectified_topic(topic: str) -> bool:
    """Tell if a topic says that its images are rectified: by the word rect, as in image_rect_color or rect/image."""
    return not {"rect", "rectified"}.isdisjoint(topic_words(topic))


def checked_camera(calibration: Calibration, rectified: bool, doubts: list[Doubt] | None = None) -> Camera:
    """Turn a calibration into a camera after looking for every contradiction that can be seen in one message.

    Raises CameraError where no camera is like that. `doubts` gets what else speaks against it.
    """
    names = {**calibration.names, "model": "distortion_model"}
    at = {field: f"{calibration.where}, {name}" for field, name in names.items()}
    width, height = calibration.width, calibration.height
    if width <= 0 or height <= 0:
        what = f"image size {width}x{height} is empty"
        raise CameraError(what, where=at["size"], cure="Set the calibrated image size")
    if width * height > LARGEST_IMAGE:
        what = f"an image of {width}x{height} is more than {LARGEST_IMAGE / 1e6:.0f} million pixels"
        raise CameraError(what, where=at["size"], cure="Set the calibrated image size; the message may be damaged")
    found = [] if doubts is None else doubts
    has_projection = bool(calibration.projection.any())
    if rectified and has_projection:
        camera = Camera(*_projection_intrinsics(calibration, at["p"]), width, height)
        found += doubts_about(camera, at["p"])
        return camera
    intrinsics = pinhole_intrinsics(calibration.matrix, at["k"])
    distortion = _distortion(calibration, at["model"], at["d"])
    camera = Camera(*intrinsics, width, height, *distortion)
    projected = _projection_intrinsics(calibration, at["p"]) if has_projection else intrinsics
    for doubt in doubts_about(camera, at["k"]):
        doubt.cure += _RECTIFIED if projected != intrinsics else ""
        found.append(doubt)
    distorted = distortion[0] != "none"
    if rectified and distorted:
        what = "P is missing or all zero, so the rectified camera is unknown"
        cure = "Give P; if the image is not rectified: --no-rectified, or image.rectified:=false"
        raise CameraError(what, where=at["p"], cure=cure)
    found += doubts_about_projection(intrinsics, projected, at["p"], distorted=distorted)
    return camera


def pinhole_intrinsics(matrix: NDArray[np.float64], where: str) -> tuple[float, float, float, float]:
    """Return fx, fy, cx, cy of K [9], refusing whatever no pinhole camera has."""
    _check_numbers(matrix, 9, where)
    if not matrix.any():
        raise CameraError("all zero: the camera is not calibrated", where=where, cure=_UNCALIBRATED)
    fx, skew, cx, zero_a, fy, cy, zero_b, zero_c, one = matrix.tolist()
    if min(fx, fy) < FOCAL_LENGTHS[0] or max(fx, fy) > FOCAL_LENGTHS[1]:
        raise CameraError(f"focal lengths {fx} and {fy} are those of no lens", where=where, cure=_UNCALIBRATED)
    if any((zero_a, zero_b, zero_c)) or abs(one - 1.0) > 1e-6 or abs(skew) > 1e-6 * fx:
        what = f"not [fx 0 cx; 0 fy cy; 0 0 1]: {matrix.tolist()}"
        raise CameraError(what, where=where, cure="Write the matrix row by row; skew is not supported")
    return fx, fy, cx, cy


def _check_numbers(values: NDArray[np.float64], count: int, where: str) -> None:
    if values.size != count:
        raise CameraError(f"{values.size} numbers instead of {count}", where=where, cure=_UNCALIBRATED)
    if not np.isfinite(values).all():
        raise CameraError(f"not finite: {values.tolist()}", where=where, cure=_UNCALIBRATED)


def _projection_intrinsics(calibration: Calibration, where: str) -> tuple[float, float, float, float]:
    _check_numbers(calibration.projection, 12, where)
    return pinhole_intrinsics(calibration.projection.reshape(3, 4)[:, :3].reshape(-1), where)


def _distortion(
    calibration: Calibration, where_model: str, where_coefficients: str
) -> tuple[DistortionModel, tuple[float, ...]]:
    name = calibration.model.strip().lower()
    if name not in _MODEL_NAMES:
        what = f"unknown distortion model {calibration.model!r}"
        raise CameraError(what, where=where_model, cure=f"Use one of {', '.join(filter(None, _MODEL_NAMES))}")
    model = _MODEL_NAMES[name]
    values = tuple(calibration.coefficients.tolist())
    _check_numbers(calibration.coefficients, len(values), where_coefficients)
    if not any(values) and model != "equidistant":
        return "none", ()  # drivers of ideal cameras send zeros or nothing, under any model's name
    if model == "none":
        what = f"distortion_model is {calibration.model!r} although there are coefficients {list(values)}"
        raise CameraError(what, where=where_model, cure="Name the model that they were fitted with, such as plumb_bob")
    count = cameras.COEFFICIENT_COUNTS[model]
    if len(values) > count and not any(values[count:]):
        values = values[:count]  # drivers have a fixed number, OpenCV appends thin-prism and tilt terms
    try:
        return model, checked_distortion(model, values)
    except CameraError as error:
        raise CameraError(error.what, where=where_coefficients, cure=error.cure) from None


def camera_from_camera_info(
    message: Any, *, rectified: bool = False, where: str = "CameraInfo", doubts: list[Doubt] | None = None
) -> Camera:
    """Build the camera of the images that come with a CameraInfo.

    Returns the camera of the published image: `width` and `height` are those of the full sensor, region of interest and
    binning are applied. Raises CameraError: not calibrated (K all zero), not finite, or contradicting itself; names
    field and cure. `message`: sensor_msgs/CameraInfo of ROS 2 (fields k, d, p) or ROS 1 (K, D, P), from rclpy or
    rosbags; `rectified`: whether the images are rectified (`image_rect`): P is used, without distortion, instead of K
    and D; `where`: what to call the message in errors, for instance its topic; `doubts` gets what speaks against it.
    """
    names = {name: name if hasattr(message, name) else name.upper() for name in ("k", "d", "p")}
    for name in (*names.values(), "width", "height", "distortion_model"):
        if not hasattr(message, name):
            raise CameraError(f"field {name} is missing", where=where, cure="Give a sensor_msgs/CameraInfo")
    calibration = Calibration(
        width=int(message.width),
        height=int(message.height),
        matrix=_flat(getattr(message, names["k"])),
        projection=_flat(getattr(message, names["p"])),
        model=str(message.distortion_model),
        coefficients=_flat(getattr(message, names["d"])),
        where=where,
        names={**names, "size": "width, height"},
    )
    return _binned(_region(checked_camera(calibration, rectified, doubts), message, where), message, where)


def _flat(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _region(camera: Camera, message: Any, where: str) -> Camera:
    roi = getattr(message, "roi", None)
    if roi is None or (roi.width == 0 and roi.height == 0):
        return camera
    left, top, width, height = int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
    if min(width, height) <= 0 or left + width > camera.width or top + height > camera.height:
        what = f"region {width}x{height} at ({left}, {top}) does not fit into the {camera.width}x{camera.height} image"
        cure = "Set width and height of the full sensor, and roi in its pixels"
        raise CameraError(what, where=f"{where}, roi", cure=cure)
    return camera.cropped(left, top, width, height)


def _binned(camera: Camera, message: Any, where: str) -> Camera:
    factors = [max(1, int(getattr(message, name, 0))) for name in ("binning_x", "binning_y")]
    width, height = camera.width // factors[0], camera.height // factors[1]
    if width == 0 or height == 0:
        what = f"binning {factors[0]}x{factors[1]} leaves nothing of the image"
        cure = "Set the binning that the driver applies, 0 or 1 for none"
        raise CameraError(what, where=f"{where}, binning", cure=cure)
    whole = camera.cropped(0, 0, width * factors[0], height * factors[1])  # the driver drops incomplete bins
    return whole.resized(width, height)
