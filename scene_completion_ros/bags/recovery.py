"""Recovery of damaged recordings: what is on disk up to the damage is indexed and read.

A recording that was killed, copied half or stored on a full disk has no index, and rosbags refuses it. The messages
before the damage are there: each format is scanned from its beginning, record by record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lz4.frame  # type: ignore[import-untyped]

from scene_completion_ros.bags.storage import StoredMessage, StoredTopic, decoder_for


@dataclass(frozen=True)
class Entry:
    """Where one message lies: in a compressed chunk at `chunk`, or in the file itself (`chunk` is None)."""

    stamp_ns: int
    topic: StoredTopic
    chunk: int | None
    offset: int
    size: int


@dataclass
class Scan:
    """Result of reading a damaged file from its beginning.

    Attributes:
        entries: Messages found, in the order of the file.
        losses: What could not be read, in words.
    """

    entries: list[Entry] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)


class DamagedFile(ABC):
    """A file of one format, opened for recovery."""

    is_ros2 = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.result = Scan()

    @abstractmethod
    def scan(self) -> None:
        """Fill `result`."""

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """Read the bytes of a message found by `scan`."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def lose(self, what: str) -> None:
        """Note a loss."""
        self.result.losses.append(f"{self.path.name}: {what}")


class ChunkedFile(DamagedFile):
    """A file whose messages may lie in compressed chunks, of which the last one used is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self._kept: tuple[int, bytes] = (-1, b"")

    def read(self, entry: Entry) -> bytes:
        """Read the bytes of a message found by `scan`."""
        if entry.chunk is None:
            self._file.seek(entry.offset)
            return self._file.read(entry.size)
        return self._chunk(entry.chunk)[entry.offset : entry.offset + entry.size]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begins_with(self, magic: bytes, kind: str) -> bool:
        if self._file.read(len(magic)) == magic:
            return True
        self.lose(f"everything: it does not start like {kind}")
        return False

    def _chunk(self, place: int) -> bytes:
        """Uncompressed records of the chunk at an offset; of a cut chunk as much as is there."""
        if self._kept[0] != place:
            self._kept = place, self._read_chunk(place)
        return self._kept[1]

    @abstractmethod
    def _read_chunk(self, place: int) -> bytes:
        """What `_chunk` gives, from the file."""


LZ4: Mapping[str, Callable[[], Any]] = {"lz4": lz4.frame.LZ4FrameDecompressor}


def decompressed(data: bytes, compression: str, known: Mapping[str, Callable[[], Any]], *, uncompressed: str) -> bytes:
    """Decompress; the beginning of a cut stream gives the beginning of the content.

    Raises:
        ValueError: The compression is none of the known ones.
    """
    if compression == uncompressed:
        return data
    if compression not in known:
        raise ValueError(f"unknown compression {compression!r}")
    return bytes(known[compression]().decompress(data))


class RecoveredStorage:
    """The messages recovered from the files of one recording, in the order of bag time."""

    def __init__(self, files: Collection[DamagedFile]) -> None:
        self._files = list(files)
        for file in self._files:
            file.scan()
        entries = [entry for file in self._files for entry in file.result.entries]
        self.losses = [loss for file in self._files for loss in file.result.losses]
        self.counts: dict[str, int] = dict(Counter(entry.topic.name for entry in entries))
        self.topics = list({entry.topic.name: entry.topic for entry in entries}.values())
        self.decoder = decoder_for(self.topics, is_ros2=all(file.is_ros2 for file in self._files))
        self.start_ns = min((entry.stamp_ns for entry in entries), default=0)
        self.end_ns = max((entry.stamp_ns for entry in entries), default=0)

    def messages(
        self, topics: Collection[str] | None, start_ns: int | None, stop_ns: int | None
    ) -> Iterator[StoredMessage]:
        """Yield the messages of some topics with start <= bag time < stop."""
        wanted = [
            (entry, file)
            for file in self._files
            for entry in file.result.entries
            if (topics is None or entry.topic.name in topics)
            and (start_ns is None or entry.stamp_ns >= start_ns)
            and (stop_ns is None or entry.stamp_ns < stop_ns)
        ]
        for entry, file in sorted(wanted, key=lambda pair: pair[0].stamp_ns):
            yield StoredMessage(entry.topic, entry.stamp_ns, file.read(entry))

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
