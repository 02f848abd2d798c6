"""A file of bytes behind a header that says what they are and what their hash is.

The format is ``MAGIC``, the length of the header (4 bytes, little endian), the header (a JSON object, UTF-8) and the
payload. The header is read and judged before the payload is; the payload is given out only where its hash is that of
the header. The hash finds damage, not malice: whoever may write the file can write another hash. Files that others may
write are therefore not read at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"SCENECE1"
LARGEST_HEADER = 2**20
PART = ".part"  # how names of unfinished files end


class UnusableFileError(Exception):
    """The file is damaged, foreign, or not to be trusted; the text says which."""


def seal(header: Mapping[str, Any], payload: bytes) -> tuple[bytes, bytes]:
    """The two parts of a file: what comes before the payload, and the payload.

    Args:
        header: A JSON object; length and hash of the payload are added.
    """
    sealed = {**header, "payload_bytes": len(payload), "payload_sha256": hashlib.sha256(payload).hexdigest()}
    text = json.dumps(sealed, sort_keys=True, allow_nan=False).encode()
    if len(text) > LARGEST_HEADER:
        raise ValueError(f"a header of {len(text)} bytes is larger than {LARGEST_HEADER}")
    return MAGIC + len(text).to_bytes(4, "little") + text, payload


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file, without reading the payload.

    Raises:
        FileNotFoundError: There is no such file.
        UnusableFileError: It is damaged, foreign or not to be trusted.
    """
    with _open(path) as file:
        return _header(file)


def read_sealed(path: Path, check: Mapping[str, Any]) -> bytes:
    """The payload of a file whose header has certain entries.

    Args:
        check: What the header must hold, entry by entry.

    Raises:
        FileNotFoundError: There is no such file.
        UnusableFileError: It is damaged, foreign or not to be trusted, or its header holds something else.
    """
    with _open(path) as file:
        header = _header(file)
        wrong = [name for name, value in check.items() if header.get(name) != value]
        if wrong:
            raise UnusableFileError(f"its header holds another {', '.join(wrong)}")
        payload = file.read(header["payload_bytes"] + 1)
    if len(payload) != header["payload_bytes"]:
        raise UnusableFileError("it is cut off")
    if hashlib.sha256(payload).hexdigest() != header["payload_sha256"]:
        raise UnusableFileError("its sha256 is not that of its header: it is damaged")
    return payload


def write_sealed(path: Path, header: Mapping[str, Any], payload: bytes) -> None:
    """Write a file, so that at any moment there is either the former one or all of this one.

    Raises:
        OSError: It could not be written; the former file is as it was.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in seal(header, payload):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def distrusted(state: os.stat_result) -> str:
    """Why what is in a file or folder is not to be trusted: whoever could have written it; empty where it is."""
    if state.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {state.st_uid}, not to this one ({os.geteuid()})"
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by others (mode {stat.S_IMODE(state.st_mode):o})"
    return ""


def _open(path: Path) -> BinaryIO:
    try:
        # Without waiting for the writer of a pipe that somebody laid there.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableFileError(f"it cannot be read ({error.strerror})") from error
    state = os.fstat(file.fileno())
    reason = distrusted(state) if stat.S_ISREG(state.st_mode) else "is no file"
    if reason:
        file.close()
        raise UnusableFileError(f"it {reason}")
    return file


def _header(file: BinaryIO) -> dict[str, Any]:
    if file.read(len(MAGIC)) != MAGIC:
        raise UnusableFileError("it does not begin as such a file does")
    length = int.from_bytes(file.read(4), "little")
    if not 0 < length <= LARGEST_HEADER:
        raise UnusableFileError("the length of its header is impossible")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise UnusableFileError("its header cannot be read") from error
    if not isinstance(header, dict):
        raise UnusableFileError("its header is no object")
    size, expected = os.fstat(file.fileno()).st_size, header.get("payload_bytes")
    if type(expected) is not int or size != len(MAGIC) + 4 + length + expected:
        raise UnusableFileError(f"it has {size} bytes, which is not what its header says")
    if not isinstance(header.get("payload_sha256"), str):
        raise UnusableFileError("its header has no sha256")
    return header
