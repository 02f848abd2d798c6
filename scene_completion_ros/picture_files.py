"""The one door for JPEG and PNG that others made, in files and messages: the size of a picture, and its pixels.

The size is read before anything is decoded: a file of some kilobytes can hold a picture whose pixels take gigabytes.
"""

import re
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError
from scene_completion_ros.untrusted_files import read_bytes

LARGEST_IMAGE = 2**27  # pixels: no camera has as many, and their memory could not be had
LARGEST_MEMORY = 9 * LARGEST_IMAGE  # bytes while one is decoded: what a colour JPEG of so many pixels takes
LARGEST_FILE = 2**29  # bytes
_USUAL_BITS = (8, 10, 12, 14)  # of cameras that store their values in 16

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"
_TAIL = 4096  # bytes at the end: with an end marker in them, a picture was not cut, but is damaged before
_PADDING = b"\0\xff"  # with which buffers of a fixed size are filled up
_VIDEO = re.compile(r"h\.?26[45]|hevc|avc|av1|vp[89]|mpeg|theora", re.IGNORECASE)  # in names of formats
_VIDEO_STARTS = b"\0\0\1", b"\0\0\0\1"  # of H.264 and H.265

_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
# The next marker with a segment, or the end: no stuffing, TEM, RST0 to RST7, SOI, and none that JPEG does not use. It
# may have fill bytes before it, and image data.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xef\xfe]")
_END = 0xD9

_COLOUR, _GREY = 3, 1  # components of a JPEG

# Bytes of memory that a pixel takes at most until it is RGB. Of a progressive JPEG, libjpeg keeps the coefficients, 2
# bytes each; of an animated PNG, OpenCV has four copies, in BGRA. Grey of 16 bits may be a mosaic, made colour first.
_JPEG_BYTES, _PNG_GREY_BYTES, _PNG_COLOUR_BYTES = 3, 6, 16  # by component; by pixel of 8 bits, twice that of 16
_SHRUNK: dict[tuple[int, int], int] = {
    (shrink, components): getattr(cv2, f"IMREAD_REDUCED_{name}_{shrink}")
    for components, name in ((_COLOUR, "COLOR"), (_GREY, "GRAYSCALE"))
    for shrink in (2, 4, 8)
}
_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}  # by channels


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of the picture in a file, see `picture_size`."""
    return picture_size(_content(path), path.suffix, str(path))


def read_picture(path: Path) -> NDArray[Any]:
    """The pixels of the picture in a file, see `decode_picture`."""
    return decode_picture(_content(path), path.suffix, where=str(path))


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The picture in a file, uint8 RGB [H, W, 3], see `to_rgb`."""
    return to_rgb(read_picture(path))


def png_depth(path: Path, per_metre: float) -> NDArray[np.float32]:
    """Depth of a PNG of 16 bits, so many values to a metre: metres [h, w]; an ImageError where it is none."""
    values = read_picture(path)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise ImageError("is no depth image of 16 bits", where=str(path), cure="Restore the file")
    return np.asarray(values / np.float32(per_metre), np.float32)


def picture_size(data: NDArray[np.uint8], name: str, where: str = "image") -> tuple[int, int]:
    """Width and height of a file's picture by its header, after cheap checks that need no decoding.

    OpenCV fills the missing part of a cut JPEG with grey and only prints a warning: the end marker is looked for.
    Raises ImageError: neither JPEG nor PNG, cut short, without a size, or of more pixels than there is memory for.
    `data`: the file, uint8 [N]; `name`: what its format is called, for errors; `where`: what holds it, for errors.
    """
    return _checked_frame(data, name, where)[:2]


def decode_picture(data: NDArray[np.uint8], name: str, shrink: int = 1, where: str = "image") -> NDArray[Any]:
    """Decode a file after the checks of `picture_size`: no rotation by an EXIF tag, 16 bits stay 16 bits.

    A JPEG can be had smaller for less work, from the lower frequencies of its blocks alone. Each pixel is then about
    the mean of those that it stands for. Where a side is no multiple of `shrink`, or the file is no such JPEG, it comes
    whole. Returns the pixels [H, W] or [H, W, C], uint8 or uint16, in OpenCV's order: BGR or BGRA. Raises ImageError:
    as of `picture_size`, or it cannot be decoded. `shrink`: 1, 2, 4 or 8: a JPEG may come with its sides divided by
    this.
    """
    width, height, components = _checked_frame(data, name, where)
    flags = cv2.IMREAD_UNCHANGED
    if (shrink, components) in _SHRUNK and width % shrink == 0 and height % shrink == 0:
        flags = _SHRUNK[shrink, components] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(data, flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise _damaged(data, name, where)
    return np.asarray(pixels)


def to_rgb(pixels: NDArray[Any], bits: int = 16) -> NDArray[np.uint8]:
    """Pixels of `decode_picture` as uint8 RGB [H, W, 3]: grey replicated, alpha dropped, 16 bits as of `to_8_bit`."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return np.asarray(cv2.cvtColor(to_8_bit(pixels, bits), _TO_RGB[channels]), dtype=np.uint8)


def to_8_bit(pixels: NDArray[Any], bits: int = 16) -> NDArray[np.uint8]:
    """Pixels as uint8; of uint16, `bits` (8 to 16) are used, and larger values are white."""
    if pixels.dtype != np.uint16:
        return pixels.astype(np.uint8, copy=False)
    scale = 255.0 / (2**bits - 1)
    return np.asarray(cv2.convertScaleAbs(np.ascontiguousarray(pixels), alpha=scale), dtype=np.uint8)


def bits_in_use(pixels: NDArray[Any]) -> int:
    """How many bits of 16 the largest value of a picture needs: 8, 10, 12, 14 or 16. Black ones need all, and uint8."""
    largest = int(pixels.max()) if pixels.dtype == np.uint16 else 0
    return next((bits for bits in _USUAL_BITS if 0 < largest < 2**bits), 16)


def _content(path: Path) -> NDArray[np.uint8]:
    content = read_bytes(path, ImageError, cure="Name a file that holds a JPEG or PNG", most_bytes=LARGEST_FILE)
    return np.frombuffer(content, dtype=np.uint8)


def _checked_frame(data: NDArray[np.uint8], name: str, where: str) -> tuple[int, int, int]:
    """Width and height of `picture_size`, and of a JPEG the number of components (0 of a PNG)."""
    content = data.tobytes()
    width, height, components, taken = 0, 0, 0, 0
    if content.startswith(_JPEG_START):
        width, height, components, complete = _jpeg_frame(content)
        taken, end = _JPEG_BYTES * components, _JPEG_END
    elif content.startswith(_PNG_START):
        complete, end = _chunks_end(data), _PNG_END  # OpenCV takes as much memory as a chunk promises
        if content[12:16] == b"IHDR" and len(content) >= 26:
            width, height, bits, colours = struct.unpack_from(">IIBB", content, 16)
            taken = (_PNG_COLOUR_BYTES if colours else _PNG_GREY_BYTES) * (2 if bits > 8 else 1)
    elif _VIDEO.search(name) or content.startswith(_VIDEO_STARTS):
        what = f"format {name!r} is video, of which no image can be decoded alone"
        raise ImageError(what, where=where, cure="Have the driver or a decoder publish JPEG, PNG or raw images")
    else:
        what = f"is neither JPEG nor PNG: format {name!r}, begins with {content[:4].hex(' ') or 'nothing'}"
        raise ImageError(what, where=where, cure="Give JPEG or PNG: a conversion to PNG loses nothing")
    if not complete and end not in content.rstrip(_PADDING)[-_TAIL:]:
        what = f"{name!r} data end early ({data.size} bytes)"
        raise ImageError(what, where=where, cure="It was cut short: record or copy it anew")
    if not complete or min(width, height) <= 0:
        raise _damaged(data, name, where)
    if width * height > (most := min(LARGEST_IMAGE, LARGEST_MEMORY // max(taken, 1))):
        what = f"a picture of {width}x{height} is more than {most / 1e6:.0f} million pixels, the most of its kind"
        cure = "The data are damaged, or meant to fill the memory; fewer bits a pixel and JPEG take less"
        raise ImageError(what, where=where, cure=cure)
    return width, height, components


def _jpeg_frame(data: bytes) -> tuple[int, int, int, bool]:
    """Width, height, components of the first frame header, zeros if none; and whether the picture reaches its end.

    Goes from marker to marker as libjpeg does: those of a thumbnail within a segment are not its own, and what follows
    the end is no part of it.
    """
    width, height, components, place = 0, 0, 0, len(_JPEG_START)
    while found := _MARKER.search(data, place):
        marker, place = found[0][-1], found.end()
        if marker == _END:
            return width, height, components, True
        if marker in _FRAME_HEADERS and not components and place + 8 <= len(data):
            height, width, components = struct.unpack_from(">HHB", data, place + 3)
        place += int.from_bytes(data[place : place + 2], "big")
    return width, height, components, False


def _chunks_end(data: NDArray[np.uint8]) -> bool:
    """Whether the chunks of a PNG end within it, the last one, IEND, included."""
    place = 8
    while place + 12 <= data.size:
        length, name = struct.unpack_from(">I4s", data.data, place)
        place += 12 + length
        if name == _PNG_END:
            return bool(place <= data.size)
    return False


def _damaged(data: NDArray[np.uint8], name: str, where: str) -> ImageError:
    return ImageError(
        f"{data.size} bytes of format {name!r} cannot be decoded", where=where, cure="The data are damaged"
    )
