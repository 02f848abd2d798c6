"""Still WebP pictures put together as an animation.

OpenCV writes animations since 4.11 only, and robots have the one of their distribution (4.5 on Ubuntu 22.04). So it
encodes the pictures, and the few bytes around them are written here, as the WebP Container Specification wants them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2

_PICTURE_CHUNKS = (b"ALPH", b"VP8 ", b"VP8L")
_IS_ANIMATION = 0x02
_REPLACES = 0x02  # a frame is not blended with the one before
_FOR_EVER = 0
_WHITE = b"\xff\xff\xff\xff"


def can_write_webp() -> bool:
    """Whether this OpenCV was built with WebP."""
    return bool(cv2.haveImageWriter("picture.webp"))


def animated_webp(stills: Sequence[bytes], durations_ms: Sequence[int], size: tuple[int, int]) -> bytes:
    """An animation that starts again when it ends.

    Args:
        stills: WebP files of one size, in order.
        durations_ms: How long each is shown, milliseconds.
        size: Width and height of all of them, pixels.

    Returns:
        Bytes of a WebP file.
    """
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
