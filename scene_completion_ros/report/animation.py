"""A short animated picture of a drive: whether shapes and colours of the voxels stay what they are over time.

OpenCV writes animations since 4.11 only, and robots have the one of their distribution (4.5 on Ubuntu 22.04). So it
encodes still WebP pictures, and the few bytes around them are written here, as the WebP Container Specification wants
them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.report.map_axes import Picture
from scene_completion_ros.report.pictures import (
    beside_map,
    class_legend,
    encode_picture,
    fit_width,
    height_legend,
    voxel_view,
)
from scene_completion_ros.voxels.colours import STATE_COLOURS, STATE_NAMES
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

MOST_FRAMES = 40
_WIDTH = 400  # pixels of the camera image
_TALLEST = 240  # pixels of the camera image; an upright one is made narrower, down to:
_NARROWEST = 240
_MAP_SHARE = 0.65  # of the size of the report's bird's-eye view
_QUALITY = 80
# Browsers show what is given less than 20 ms for 100 ms. Nobody waits for the next picture of an hour.
_SHORTEST_MS, _LONGEST_MS = 20, 1000
# Of a WebP file.
_PICTURE_CHUNKS = (b"ALPH", b"VP8 ", b"VP8L")
_IS_ANIMATION = 0x02
_REPLACES = 0x02  # a frame is not blended with the one before
_FOR_EVER = 0
_WHITE = b"\xff\xff\xff\xff"


@dataclass(frozen=True)
class AnimatedPicture:
    """A WebP file, a still one if there is but one frame, and what to say of it."""

    data: bytes
    caption: str


class DriveAnimation:
    """Collects frames of a drive of any length: of a long one every second, fourth, eighth and so on.

    Frames are encoded when they come, so that the whole can be had at any time. Memory holds 40 of them, about 1 MB.
    """

    def __init__(self) -> None:
        self._possible = can_write_webp()
        self._frames: list[tuple[int, bytes]] = []  # stamp, WebP
        self._seen = 0
        self._every = 1
        self._canvas: tuple[int, int] = (0, 0)  # rows, columns
        self._legend: Picture | None = None

    def add(
        self,
        voxels: SemanticVoxels,
        image: NDArray[np.uint8] | None,  # RGB image [H, W, 3], if there is one
        birds_eye: Picture,
        *,
        title: str,
        # Camera that the voxels are seen through; without it only the bird's-eye view shows them.
        camera: Camera | None,
    ) -> None:
        """Draw a frame, unless the drive is so long that it is left out."""
        self._seen += 1
        if not self._possible or (self._seen - 1) % self._every:
            return
        if len(self._frames) == MOST_FRAMES:
            self._frames = self._frames[::2]
            self._every *= 2
            if (self._seen - 1) % self._every:
                return
        aspects = [] if image is None else [image.shape[0] / image.shape[1]]
        aspects += [] if camera is None else [camera.height / camera.width]
        width = 2 * round(max(_NARROWEST, min([_WIDTH, *(_TALLEST / aspect for aspect in aspects)])) / 2)
        if self._legend is None or self._legend.shape[1] != width:
            self._legend = _legend(voxels, width)
        left = [("camera", fit_width(image, width))] if image is not None else []
        if camera is not None:
            left.append(("voxels from where the camera is", voxel_view(voxels, camera, width=width)))
        left.append(("colour by class" if len(voxels.class_names) > 1 else "colour by height (z)", self._legend))
        map_view = fit_width(birds_eye, round(_MAP_SHARE * birds_eye.shape[1]))
        picture = beside_map(left, map_view, title=title, width=width)
        if not self._frames:
            self._canvas = picture.shape[0], picture.shape[1]
        picture = _on_canvas(picture, self._canvas)
        self._frames.append((voxels.stamp_ns, encode_picture(picture, ".webp", quality=_QUALITY)))

    def picture(self) -> AnimatedPicture | None:
        """What was collected so far; none if there was no frame."""
        if not self._frames:
            return None
        counts = f"{len(self._frames)} of {self._seen} frames"
        if len(self._frames) == 1:
            return AnimatedPicture(self._frames[0][1], counts)
        # Milliseconds to the next frame, and how long each is shown; the last one as long as the others usually.
        stamps = np.array([stamp_ns for stamp_ns, _ in self._frames], dtype=np.int64)
        steps = np.diff(np.rint((stamps - stamps[0]) / 1e6).astype(np.int64))
        wanted_ms = np.append(steps, round(float(np.median(steps))))
        shown_ms = np.clip(wanted_ms, _SHORTEST_MS, _LONGEST_MS)
        rows, columns = self._canvas
        data = animated_webp([still for _, still in self._frames], shown_ms.tolist(), (columns, rows))
        return AnimatedPicture(data, f"{counts}, {_pace(wanted_ms, shown_ms)}")


def _pace(wanted_ms: NDArray[np.int64], shown_ms: NDArray[np.int64]) -> str:
    if np.array_equal(wanted_ms, shown_ms):
        return "as fast as driven"
    if np.median(wanted_ms) > _LONGEST_MS:
        return f"{wanted_ms.sum() / shown_ms.sum():.2g} times as fast as driven"
    return f"as fast as driven, but {_SHORTEST_MS} ms to {_LONGEST_MS / 1000:g} s a frame"


def _legend(voxels: SemanticVoxels, width: int) -> Picture:
    several = len(voxels.class_names) > 1
    names = list(voxels.class_names) if several else []
    colours = list(voxels.class_colours) if several else []
    for state in (VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED):
        if (voxels.state == state).any():
            names.append(STATE_NAMES[int(state)])
            colours.append(STATE_COLOURS[int(state)])
    parts = [] if several else [height_legend(width)]
    if names:
        parts.append(class_legend(names, colours, width=width))
    return np.concatenate(parts)


def _on_canvas(picture: Picture, canvas: tuple[int, int]) -> Picture:
    """The picture as large as the first one: all frames of an animation have one size."""
    rows, columns = canvas
    if picture.shape[:2] == canvas:
        return picture
    grown = [(0, max(0, rows - picture.shape[0])), (0, max(0, columns - picture.shape[1])), (0, 0)]
    return np.pad(picture, grown, constant_values=255)[:rows, :columns]


def can_write_webp() -> bool:
    """Whether this OpenCV was built with WebP."""
    return bool(cv2.haveImageWriter("picture.webp"))


def animated_webp(stills: Sequence[bytes], durations_ms: Sequence[int], size: tuple[int, int]) -> bytes:
    """WebP `stills` of one `size` (width, height, pixels), each shown for `durations_ms`, again and again."""
    extent = _number(size[0] - 1, 3) + _number(size[1] - 1, 3)
    chunks = [
        _chunk(b"VP8X", bytes([_IS_ANIMATION, 0, 0, 0]) + extent),
        _chunk(b"ANIM", _WHITE + _number(_FOR_EVER, 2)),
    ]
    for still, duration_ms in zip(stills, durations_ms, strict=True):
        head = _number(0, 3) + _number(0, 3) + extent + _number(duration_ms, 3) + bytes([_REPLACES])
        pictures = [_chunk(name, body) for name, body in _chunks(still) if name in _PICTURE_CHUNKS]
        chunks.append(_chunk(b"ANMF", head + b"".join(pictures)))
    return _chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + _number(len(body), 4) + body + b"\0" * (len(body) % 2)


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12  # after RIFF, the size and WEBP
    while place + 8 <= len(file):
        size = int.from_bytes(file[place + 4 : place + 8], "little")
        yield file[place : place + 4], file[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
