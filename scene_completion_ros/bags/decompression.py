"""Decompressing what rosbag2 compressed: whole files, into a temporary folder, and single messages."""

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import zstandard  # which mcap requires

from scene_completion_ros.errors import BagError

COMPRESSED = (".zstd", ".zst")
LARGEST_RATIO = 1000  # of a file; no recording is smaller than that compressed, but what is to fill the disk is
LARGEST_MESSAGE = 1 << 30  # bytes
_LEFT_FREE = 1 << 30  # bytes of the disk
_PIECE = 1 << 20  # bytes that are decompressed at once
_MAGIC = zstandard.MAGIC_NUMBER.to_bytes(4, "little")


class DecompressedFiles:
    """The files of a recording, decompressed where they have to be; these are gone with the last reader of them.

    Raises BagError where a file is damaged from its beginning, or larger than the disk has room for.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        folder = tempfile.mkdtemp(prefix="decompressed_bag_")
        weakref.finalize(self, _remove, folder, os.getpid())
        self.losses: list[str] = []  # what cannot be decompressed
        self.files = [self._decompressed(file, Path(folder)) if file.suffix in COMPRESSED else file for file in files]

    def _decompressed(self, file: Path, folder: Path) -> Path:
        target, size = folder / file.stem, 0
        room = min(shutil.disk_usage(folder).free - _LEFT_FREE, LARGEST_RATIO * file.stat().st_size)
        try:
            with file.open("rb") as packed, target.open("wb") as output:
                stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
                while piece := stream.read(_PIECE):
                    size += len(piece)
                    if size > room:
                        what = f"decompressed it has more than {max(room, 0) / 1e9:.1f} GB, for which there is no room"
                        cure = f"Set TMPDIR to a larger disk, or decompress it with `zstd -d {file.name}`"
                        raise BagError(what, where=str(file), cure=cure)
                    output.write(piece)
        except zstandard.ZstdError as error:
            self.losses.append(f"{file.name}: cannot be decompressed beyond {size} bytes ({error})")
        if not size:
            what = "; ".join(self.losses) or "nothing comes of decompressing it"
            raise BagError(what, where=str(file), cure="Copy it from the robot again")
        return target


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked process has the object as well, and the folder is not its own
        shutil.rmtree(folder, ignore_errors=True)


_OPEN: weakref.WeakValueDictionary[tuple[object, ...], DecompressedFiles] = weakref.WeakValueDictionary()
_OPENING = threading.Lock()


def decompressed(files: Sequence[Path]) -> DecompressedFiles:
    """Decompress the files of a recording; all that read it in one process share what comes out."""
    key = tuple((file.resolve(), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    with _OPENING:
        found = _OPEN.get(key)
        if found is None:
            found = _OPEN[key] = DecompressedFiles(files)
    return found


def plain_message(raw: bytes) -> bytes:
    """A message of ROS 2, decompressed where rosbag2 compressed it: no CDR begins like that.

    Raises ValueError where it has no size, or is larger than `LARGEST_MESSAGE`; ZstdError where it is damaged.
    """
    if not raw.startswith(_MAGIC):
        return raw
    size = zstandard.frame_content_size(raw)
    if not 0 <= size <= LARGEST_MESSAGE:
        raise ValueError(f"a compressed message of {size} bytes")
    return zstandard.ZstdDecompressor().decompress(raw)
