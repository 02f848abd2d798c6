"""Cameras from calibration files: of camera_calibration, OpenCV, Kalibr and KITTI."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.camera_info import Calibration, checked_camera, pinhole_intrinsics
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.plausible_cameras import doubts_about
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.picture_files import read_size
from scene_completion_ros.untrusted_files import JsonObject, read_text, read_yaml, shown

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_YAML = "Give the YAML of camera_calibration or OpenCV, or Kalibr's camchain"
_SHORT = {"k": "camera_matrix", "d": "distortion_coefficients", "p": "projection_matrix"}  # in files of OpenCV
_CAMODOCAL = "Give KITTI-360's calibration/image_02.yaml or image_03.yaml"


def read_camera(spec: str | Path, *, image_size: tuple[int, int] | None = None, rectified: bool = False) -> Camera:
    """Read a camera from a file.

    Raises CameraError where the file cannot be read, lacks something, or was made for another image size. `spec`: YAML
    file of camera_calibration or of OpenCV's FileStorage; Kalibr's camchain, with the name of a camera after a colon if
    it has several: `camchain.yaml:cam0`; KITTI calibration with the name of the projection matrix: `calib.txt:P2`,
    `calib_cam_to_cam.txt:P_rect_02`. `image_size`: (width, height) of the images in use. KITTI's calib.txt does not
    hold it: if left out there, the first image of the folder next to the file is read (`image_2` for P2);
    `rectified`: as of `camera_from_camera_info`.
    """
    head, colon, tail = str(spec).rpartition(":")
    # A colon inside a folder's name stays in the path.
    path, name = (Path(head), tail) if colon and "/" not in tail else (Path(spec), "")
    if path.suffix.lower() in (".yaml", ".yml"):
        camera = _read_yaml(path, name, image_size, rectified)
    elif path.suffix.lower() == ".txt":
        camera = _read_kitti(path, name, image_size)
    else:
        cure = f"{_YAML}, or KITTI's calib.txt with a camera, such as calib.txt:P2"
        raise CameraError("is no known kind of calibration file", where=str(spec), cure=cure)
    if image_size is not None and tuple(image_size) != (camera.width, camera.height):
        image, calibrated = f"{image_size[0]}x{image_size[1]}", f"{camera.width}x{camera.height}"
        what = f"is the calibration of {calibrated} images, but the image is {image}"
        cure = "Use the image size of the calibration, or calibrate for this size"
        raise CameraError(what, where=str(path), cure=cure)
    return camera


def read_kitti_calibration(path: str | Path) -> dict[str, NDArray[np.float64]]:
    """Read a KITTI calibration file, lines of `name: numbers`.

    Returns by name: [3, 4] of twelve numbers (P0…P3, Tr, P_rect_02), [3, 3] of nine (R_rect_00), else as many as there
    are. Dates are left out. Raises CameraError where the file cannot be read or a line is malformed; names file and
    line. `path`: `calib.txt` of the odometry or object benchmark, or `calib_*_to_*.txt` of the raw recordings.
    """
    matrices: dict[str, NDArray[np.float64]] = {}
    for number, line in enumerate(read_text(path, CameraError, cure="Check the path").splitlines(), start=1):
        if not line.strip():
            continue
        name, colon, rest = line.partition(":")
        name = name.strip()
        if name.endswith("time"):
            continue
        where = f"{path}, line {number}"
        if not colon or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise CameraError(f"not `name: numbers`: {line[:60]!r}", where=where, cure="Give KITTI's calib.txt")
        matrices[name] = _kitti_values(name, rest, where)
    if not matrices:
        raise CameraError("holds no calibration", where=str(path), cure="Give KITTI's calib.txt")
    return matrices


def read_kitti360_fisheye(path: str | Path) -> Camera:
    """Camera "mei" of a KITTI-360 fisheye's file of camodocal (`image_02.yaml`). Raises CameraError with what lacks."""
    document = read_yaml(path, CameraError, cure=_CAMODOCAL, kind=dict)
    fields = JsonObject(document, path, kind=CameraError, cure=_CAMODOCAL)
    if fields.text("model_type") != "MEI":
        raise fields.error("model_type", f"is {shown(document['model_type'])} instead of MEI")
    plane, mirror, lens = (fields.object(f"{name}_parameters") for name in ("projection", "mirror", "distortion"))
    fx, fy, cx, cy = (plane.number(key) for key in ("gamma1", "gamma2", "u0", "v0"))
    distortion = mirror.number("xi"), *(lens.number(key) for key in ("k1", "k2", "p1", "p2"))
    width, height = fields.integer("image_width"), fields.integer("image_height")
    try:
        return Camera(fx, fy, cx, cy, width, height, "mei", distortion)
    except CameraError as error:
        raise fields.error("", f"holds no camera: {error}") from error


def camera_from_projection(projection: NDArray[np.float64], width: int, height: int) -> tuple[Camera, RigidTransform]:
    """Split a projection matrix of rectified images into camera and position. `projection`: P = K [I | t], [3, 4].

    Returns the camera and `camera_from_rectified0`, the translation t = K⁻¹ p₄ from the rectified reference camera. All
    three components are kept: KITTI's P2 has some millimetres along y and z. Raises CameraError: P is not of this form.
    """
    matrix = np.asarray(projection, dtype=np.float64)
    if matrix.shape != (3, 4) or not np.isfinite(matrix).all():
        raise CameraError(f"not 3x4 finite numbers: {matrix.tolist()}", where="P")
    camera = Camera(*pinhole_intrinsics(matrix[:, :3].reshape(-1), "P"), width, height)
    return camera, RigidTransform(np.eye(3), np.linalg.solve(matrix[:, :3], matrix[:, 3]).astype(np.float64))


def _read_yaml(path: Path, name: str, image_size: tuple[int, int] | None, rectified: bool) -> Camera:
    document = {str(key): value for key, value in read_yaml(path, CameraError, cure=_YAML, kind=dict).items()}
    chain = [key for key, entry in document.items() if isinstance(entry, Mapping) and "intrinsics" in entry]
    if chain:
        name = name or (chain[0] if len(chain) == 1 else "")
        _check_named(path, name, chain)
        return _of_kalibr(JsonObject(document, path, kind=CameraError, cure=_YAML).object(name), rectified)
    if name:
        raise CameraError(f"holds one camera, {name!r} means nothing", where=str(path), cure=f"Name {path.name} alone")
    document = {_SHORT.get(key.lower(), key.lower()): value for key, value in document.items()}
    size_keys = "image_width", "image_height"
    if image_size is not None and not document.keys() & {*size_keys}:
        document |= zip(size_keys, image_size, strict=True)
    fields = JsonObject(document, path, kind=CameraError, cure=_YAML)
    coefficients, projection = _numbers(fields, "distortion_coefficients"), "projection_matrix"
    calibration = Calibration(
        width=fields.integer("image_width"),
        height=fields.integer("image_height"),
        matrix=_numbers(fields, "camera_matrix"),
        projection=_numbers(fields, projection) if projection in document else np.zeros(0),
        model=_model_name(document, coefficients, path),
        coefficients=coefficients,
        where=str(path),
        names={**_SHORT, "size": "image_width, image_height"},
    )
    return checked_camera(calibration, rectified)


def _numbers(fields: JsonObject, key: str) -> NDArray[np.float64]:
    """Numbers of a key, or of `data` below it, as OpenCV writes matrices."""
    matrix = isinstance(fields.values.get(key), Mapping)
    numbers = fields.object(key).numbers("data") if matrix else fields.numbers(key)
    return np.asarray(numbers, dtype=np.float64).reshape(-1)


def _model_name(document: Mapping[str, Any], coefficients: NDArray[np.float64], path: Path) -> str:
    """What a file calls the distortion, or what OpenCV fits with so many coefficients."""
    if "distortion_model" in document:
        return str(document["distortion_model"] or "")
    is_fisheye = document.get("fisheye_model")
    if is_fisheye is None and coefficients.size == 4 and coefficients.any():
        what = "key distortion_model is missing, and four coefficients may be those of any model"
        raise CameraError(what, where=str(path), cure="Add a line: distortion_model: plumb_bob, or equidistant")
    if is_fisheye:
        return "fisheye"
    return "plumb_bob" if coefficients.size <= 5 else "rational_polynomial"


def _of_kalibr(fields: JsonObject, rectified: bool) -> Camera:
    kind, intrinsics = fields.text("camera_model"), _numbers(fields, "intrinsics")
    if {"pinhole": 4, "omni": 5}.get(kind) != intrinsics.size:
        what = f"camera model {shown(kind)} with {intrinsics.size} intrinsics is not supported"
        raise fields.error("", what, "Calibrate with pinhole-radtan, pinhole-equi or omni-radtan")
    width, height = fields.integers("resolution", 2)
    xi, fx, fy, cx, cy = [0.0, *intrinsics.tolist()][-5:]
    calibration = Calibration(
        width=width,
        height=height,
        matrix=np.array([fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]),
        projection=np.zeros(0),
        model=fields.text("distortion_model"),
        coefficients=_numbers(fields, "distortion_coeffs"),
        where=fields.where(),
        names={"k": "intrinsics", "d": "distortion_coeffs", "p": "no projection matrix", "size": "resolution"},
    )
    camera = checked_camera(calibration, rectified)
    if kind == "pinhole":
        return camera
    if camera.distortion_model not in ("none", "plumb_bob"):
        what = f"omni with the distortion {camera.distortion_model} is not supported"
        raise fields.error("", what, "Calibrate with omni-radtan")
    lens = [*camera.distortion[:4], 0.0, 0.0, 0.0, 0.0][:4]
    return replace(camera, distortion_model="mei", distortion=(xi, *lens))


def _check_named(path: Path, name: str, cameras: Sequence[str]) -> None:
    if name not in cameras:
        what = f"has no camera {name!r}" if name else "holds several cameras and none is named"
        cure = f"Choose one of {', '.join(f'{path.name}:{key}' for key in cameras)}" if cameras else "It holds none"
        raise CameraError(what, where=str(path), cure=cure)


def _kitti_values(name: str, text: str, where: str) -> NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in text.split()], dtype=np.float64)
    except ValueError as error:
        raise CameraError(f"{name}: {error}", where=where, cure="Restore the file from the data set") from error
    if not np.isfinite(values).all():
        raise CameraError(f"{name} is not finite: {values.tolist()}", where=where)
    if re.fullmatch(r"P\d|P_rect_\d+|Tr\w*", name) and values.size != 12:
        what = f"{name} has {values.size} numbers instead of 12"
        raise CameraError(what, where=where, cure="Restore the file from the data set")
    if values.size == 12:
        return values.reshape(3, 4)
    return values.reshape(3, 3) if values.size == 9 else values


def _read_kitti(path: Path, name: str, image_size: tuple[int, int] | None) -> Camera:
    matrices = read_kitti_calibration(path)
    cameras = sorted(key for key, value in matrices.items() if key.startswith("P") and value.shape == (3, 4))
    _check_named(path, name, cameras)
    width, height = _kitti_image_size(path, name, matrices, image_size)
    try:
        camera = camera_from_projection(matrices[name], width, height)[0]
    except CameraError as error:
        raise CameraError(error.what, where=f"{path}, {name}", cure=error.cure) from None
    doubts_about(camera, f"{path}, {name}")
    return camera


def _kitti_image_size(
    path: Path, name: str, matrices: Mapping[str, NDArray[np.float64]], image_size: tuple[int, int] | None
) -> tuple[int, int]:
    number = int(re.sub(r"\D", "", name) or 0)
    rectified_size = matrices.get(f"S_rect_{number:02d}")
    if rectified_size is not None and rectified_size.size == 2:
        return int(rectified_size[0]), int(rectified_size[1])
    if image_size is not None:
        return image_size
    folder = path.parent / f"image_{number}"
    images = sorted(entry for entry in folder.glob("*") if entry.suffix.lower() in _IMAGE_SUFFIXES)
    if not images:
        what = f"the size of the images is unknown: the file does not hold it and {folder} has no image"
        raise CameraError(what, where=str(path), cure="Give the image size as well")
    return read_size(images[0])
