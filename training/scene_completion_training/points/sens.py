"""Views of a ScanNet scan: its `.sens` file (version 4), or the frames that ScanNet's SensReader exports of it.

The header has a name, matrices of colour and depth camera, compressions, sizes, the number of depth values to a metre,
and the number of frames. A frame is a row-major world_from_camera (of -inf where tracking was lost), two times, two
sizes, and so many bytes of JPEG and of zlib. Numbers are little endian.
"""

import struct
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError, SceneCompletionError, SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.picture_files import LARGEST_IMAGE, decode_picture, read_picture, read_rgb, read_size, to_rgb
from scene_completion_ros.untrusted_files import read_text
from scene_completion_training.points.scene import RgbdView

_CURE = "Download the file again"
_JPEG_PNG, _RAW, _ZLIB = (1, 2), 0, 1
_MATRICES, _SIZES, _FRAME = struct.Struct("<64f"), struct.Struct("<2i4IfQ"), struct.Struct("<16f4Q")
_LONGEST_NAME = 1 << 12
_MILLIMETRES = 1000.0  # values to a metre of exported depth


def sens_views(path: Path, every: int = 1) -> tuple[RgbdView, ...]:
    """Every n-th posed frame of a `.sens` file; a SequenceError where it is damaged or of another version."""
    size = path.stat().st_size
    with path.open("rb") as file:
        version, letters = struct.unpack("<IQ", _read(file, 12, path))
        if version != 4 or letters > _LONGEST_NAME:
            raise SequenceError(f"is version {version} of .sens, not 4", where=str(path), cure=_CURE)
        file.seek(letters, 1)
        intrinsics = np.array(_MATRICES.unpack(_read(file, _MATRICES.size, path))[:16], np.float64).reshape(4, 4)
        colour, depth, width, height, columns, rows, scale, count = _SIZES.unpack(_read(file, _SIZES.size, path))
        if colour not in _JPEG_PNG or depth not in (_RAW, _ZLIB):
            cure = "Export its frames with ScanNet's SensReader"
            raise SequenceError(f"has compressions {colour} of colour and {depth} of depth", where=str(path), cure=cure)
        fits = 0 < rows * columns <= LARGEST_IMAGE and 0.0 < scale < np.inf
        if not fits or count > (size - file.tell()) // _FRAME.size:
            what = f"promises {count} frames of {columns}x{rows}, {scale:g} to a metre, in {size:,} bytes"
            raise SequenceError(what, where=str(path), cure=_CURE)
        camera = _camera(intrinsics, width, height, path)
        views = []
        for number in range(count):
            *pose, _, _, picture, measured = _FRAME.unpack(_read(file, _FRAME.size, path))
            start = file.tell()
            if start + picture + measured > size:
                raise SequenceError(f"ends within frame {number} of {count}", where=str(path), cure=_CURE)
            file.seek(start + picture + measured)
            if number % every == 0 and np.isfinite(pose).all():
                at = _pose(np.array(pose).reshape(4, 4), f"{path}, frame {number}")
                image = partial(_sens_image, path, start, picture)
                there = partial(_sens_depth, path, start + picture, measured, (rows, columns), scale, depth == _ZLIB)
                views.append(RgbdView(f"{number:06d}", camera, at, image, there))
    return tuple(views)


def exported_views(folder: Path, every: int = 1) -> tuple[RgbdView, ...]:
    """Every n-th posed frame that SensReader has exported; a SequenceError where a file is missing or damaged."""
    numbers = sorted(int(file.stem) for file in (folder / "pose").glob("*.txt") if file.stem.isdecimal())
    views = []
    camera: Camera | None = None
    for number in numbers[::every]:
        at = folder / "pose" / f"{number}.txt"
        pose = _matrix(at)
        if not np.isfinite(pose).all():
            continue
        image = folder / "color" / f"{number}.jpg"
        if camera is None:
            intrinsics = folder / "intrinsic" / "intrinsic_color.txt"
            camera = _camera(_matrix(intrinsics), *read_size(image), intrinsics)
        depth = partial(depth_png, folder / "depth" / f"{number}.png", _MILLIMETRES)
        views.append(RgbdView(f"{number:06d}", camera, _pose(pose, str(at)), partial(read_rgb, image), depth))
    return tuple(views)


def depth_png(path: Path, per_metre: float) -> NDArray[np.float32]:
    """Depth of a PNG of 16 bits: float32 [h, w] metres, 0 where none was measured; an ImageError where it is none."""
    values = read_picture(path)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise ImageError("is no depth image of 16 bits", where=str(path), cure="Restore the file")
    return np.asarray(values / np.float32(per_metre), np.float32)


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise SequenceError("ends early", where=str(path), cure=_CURE)
    return content


def _part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return _read(file, size, path)


def _sens_image(path: Path, start: int, size: int) -> NDArray[np.uint8]:
    content = np.frombuffer(_part(path, start, size), np.uint8)
    return to_rgb(decode_picture(content, "colour", where=f"{path}, byte {start}"))


def _sens_depth(
    path: Path, start: int, size: int, shape: tuple[int, int], per_metre: float, packed: bool
) -> NDArray[np.float32]:
    content, expected = _part(path, start, size), 2 * shape[0] * shape[1]
    try:
        values = zlib.decompressobj().decompress(content, expected + 1) if packed else content
    except zlib.error:
        values = b""
    if len(values) != expected:
        raise ImageError(f"is no depth of {shape[1]}x{shape[0]}", where=f"{path}, byte {start}", cure=_CURE)
    return np.asarray(np.frombuffer(values, "<u2").reshape(shape) / np.float32(per_metre), np.float32)


def _matrix(path: Path) -> NDArray[np.float64]:
    """A matrix [4, 4] of a text file."""
    try:
        return np.array([float(word) for word in read_text(path, SequenceError, cure=_CURE).split()]).reshape(4, 4)
    except ValueError as problem:
        raise SequenceError("is no matrix of 4x4 numbers", where=str(path), cure=_CURE) from problem


def _camera(intrinsics: NDArray[np.float64], width: int, height: int, path: Path) -> Camera:
    try:
        fx, fy, cx, cy = intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
        return Camera(fx, fy, cx, cy, width, height)
    except SceneCompletionError as error:
        raise SequenceError(f"has no intrinsics: {error}", where=str(path), cure=_CURE) from error


def _pose(matrix: NDArray[np.float64], where: str) -> RigidTransform:
    try:
        return RigidTransform.from_matrix(matrix)
    except SceneCompletionError as error:
        raise SequenceError(f"has no pose: {error}", where=where, cure=_CURE) from error
