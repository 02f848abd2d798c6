"""The checks that a calibration passes before it becomes a camera, wherever it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.cameras import FOCAL_LENGTHS, LARGEST_COEFFICIENT, Camera
from scene_completion_ros.geometry.distortion import COEFFICIENT_COUNTS, DistortionModel
from scene_completion_ros.picture_files import LARGEST_IMAGE

_MODEL_NAMES: dict[str, DistortionModel] = {
    "": "none",
    "none": "none",
    "pinhole": "none",
    "plumb_bob": "plumb_bob",
    "rational_polynomial": "rational_polynomial",
    "equidistant": "equidistant",
    "fisheye": "equidistant",
    "kannala_brandt": "equidistant",
}
_SAME_SCALE = 0.1  # P and K scaled by one factor, alike within this share, are calibrations of two image sizes
_UNCALIBRATED = "Calibrate the camera (for example with camera_calibration) or give a calibration file"
_ONE_CALIBRATION = "Publish the calibration of exactly this image size, without mixing two calibrations"


@dataclass(frozen=True)
class Calibration:
    """What CameraInfo and the YAML of camera_calibration both say, not yet trusted."""

    width: int
    height: int
    matrix: NDArray[np.float64]  # K [9]
    projection: NDArray[np.float64]  # P [12], or empty
    model: str
    coefficients: NDArray[np.float64]  # D
    where: str  # of the whole
    names: Mapping[str, str]  # field -> its name in this source


def checked_camera(calibration: Calibration, rectified: bool) -> Camera:
    """Turn a calibration into a camera after looking for every contradiction that can be seen in one message."""
    at = {field: f"{calibration.where}, {name}" for field, name in calibration.names.items()}
    width, height = calibration.width, calibration.height
    if width <= 0 or height <= 0:
        what = f"image size {width}x{height} is empty"
        raise CameraError(what, where=at["size"], cure="Set the calibrated image size")
    if width * height > LARGEST_IMAGE:
        what = f"an image of {width}x{height} is more than {LARGEST_IMAGE / 1e6:.0f} million pixels"
        raise CameraError(what, where=at["size"], cure="Set the calibrated image size; the message may be damaged")
    has_projection = bool(calibration.projection.any())
    if rectified:
        if not has_projection:
            what = "P is missing or all zero, so the rectified camera is unknown"
            raise CameraError(what, where=at["p"], cure="Publish P, or use the unrectified image")
        projected = _projection_intrinsics(calibration, at["p"])
        check_principal_point(projected, width, height, at["p"])
        return Camera(*projected, width, height)
    intrinsics = pinhole_intrinsics(calibration.matrix, at["k"])
    check_principal_point(intrinsics, width, height, at["k"])
    if has_projection:
        _check_same_size(intrinsics, _projection_intrinsics(calibration, at["p"]), at["p"])
    model, coefficients = _distortion(calibration, at["model"], at["d"])
    return Camera(*intrinsics, width, height, model, coefficients)


def pinhole_intrinsics(matrix: NDArray[np.float64], where: str) -> tuple[float, float, float, float]:
    """Return fx, fy, cx, cy of K [9], refusing whatever no pinhole camera has."""
    if matrix.size != 9:
        raise CameraError(f"{matrix.size} numbers instead of 9", where=where, cure=_UNCALIBRATED)
    if not np.isfinite(matrix).all():
        raise CameraError(f"not finite: {matrix.tolist()}", where=where, cure=_UNCALIBRATED)
    if not matrix.any():
        raise CameraError("all zero: the camera is not calibrated", where=where, cure=_UNCALIBRATED)
    fx, skew, cx, zero_a, fy, cy, zero_b, zero_c, one = matrix.tolist()
    if fx <= 0.0 or fy <= 0.0:
        raise CameraError(f"focal lengths {fx} and {fy} are not positive", where=where, cure=_UNCALIBRATED)
    if min(fx, fy) < FOCAL_LENGTHS[0] or max(fx, fy) > FOCAL_LENGTHS[1]:
        raise CameraError(f"focal lengths {fx} and {fy} are those of no lens", where=where, cure=_UNCALIBRATED)
    if any((zero_a, zero_b, zero_c)) or abs(one - 1.0) > 1e-6 or abs(skew) > 1e-6 * fx:
        what = f"not [fx 0 cx; 0 fy cy; 0 0 1]: {matrix.tolist()}"
        raise CameraError(what, where=where, cure="Write the matrix row by row; skew is not supported")
    return fx, fy, cx, cy


def _projection_intrinsics(calibration: Calibration, where: str) -> tuple[float, float, float, float]:
    if calibration.projection.size != 12:
        raise CameraError(f"{calibration.projection.size} numbers instead of 12", where=where, cure=_UNCALIBRATED)
    if not np.isfinite(calibration.projection).all():
        raise CameraError(f"not finite: {calibration.projection.tolist()}", where=where, cure=_UNCALIBRATED)
    return pinhole_intrinsics(calibration.projection.reshape(3, 4)[:, :3].reshape(-1), where)


def check_principal_point(intrinsics: tuple[float, float, float, float], width: int, height: int, where: str) -> None:
    """Refuse intrinsics whose principal point is not in the image: they were made for another, usually larger one."""
    _, _, cx, cy = intrinsics
    if not (-0.5 <= cx < width - 0.5 and -0.5 <= cy < height - 0.5):
        raise CameraError(
            f"principal point ({cx:.1f}, {cy:.1f}) lies outside the {width}x{height} image: the calibration is that of "
            "another image size",
            where=where,
            cure=f"{_ONE_CALIBRATION}; a crop of the sensor belongs into the field roi",
        )


def _check_same_size(
    intrinsics: tuple[float, float, float, float], projected: tuple[float, float, float, float], where: str
) -> None:
    """Rectifying changes the focal length but keeps the centre about where it was; rescaling changes both alike."""
    if min(intrinsics) <= 0.0 or min(projected) <= 0.0:
        return
    with np.errstate(over="ignore", invalid="ignore"):  # a principal point next to nothing, which scales nothing
        ratios = np.array(projected) / np.array(intrinsics)
        ratio = float(ratios.mean())
        scaled = abs(ratio - 1.0) > 0.2 and np.abs(ratios / ratio - 1.0).max() < _SAME_SCALE
    if scaled:
        what = f"P is K scaled by {ratio:.3g}: the two were calibrated at different image sizes"
        raise CameraError(what, where=where, cure=_ONE_CALIBRATION)


def _distortion(
    calibration: Calibration, where_model: str, where_coefficients: str
) -> tuple[DistortionModel, tuple[float, ...]]:
    name = calibration.model.strip().lower()
    if name not in _MODEL_NAMES:
        what = f"unknown distortion model {calibration.model!r}"
        raise CameraError(what, where=where_model, cure=f"Use one of {', '.join(filter(None, _MODEL_NAMES))}")
    model = _MODEL_NAMES[name]
    values = tuple(calibration.coefficients.tolist())
    if not np.isfinite(calibration.coefficients).all():
        raise CameraError(f"not finite: {list(values)}", where=where_coefficients, cure=_UNCALIBRATED)
    if not any(values) and model != "equidistant":
        return "none", ()  # drivers of ideal cameras send zeros or nothing, under any model's name
    if model == "none":
        what = f"distortion_model is {calibration.model!r} although there are coefficients {list(values)}"
        raise CameraError(what, where=where_model, cure="Name the model that they were fitted with, such as plumb_bob")
    count = COEFFICIENT_COUNTS[model]
    if model == "rational_polynomial" and len(values) > count and not any(values[count:]):
        values = values[:count]  # OpenCV appends thin-prism and tilt terms, zero unless they were asked for
    if len(values) != count and not (model == "plumb_bob" and len(values) == 4):
        what = f"{model} has {count} coefficients, not {len(values)}: {list(values)}"
        cure = "Name the model that they were fitted with; thin-prism and tilt terms are not supported"
        raise CameraError(what, where=where_coefficients, cure=cure)
    if np.abs(calibration.coefficients).max() > LARGEST_COEFFICIENT:
        what = f"beyond {LARGEST_COEFFICIENT:g}: {list(values)}"
        raise CameraError(what, where=where_coefficients, cure=_UNCALIBRATED)
    return model, values
