"""Recovery of damaged recordings: what is on disk up to the damage is indexed and read.

A recording that was killed, copied half or stored on a full disk has no index, and rosbags refuses it. The messages
before the damage are there: each format is scanned from its beginning, record by record.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
    """Result of reading a damaged file from its beginning."""

    entries: list[Entry] = field(default_factory=list)  # messages found, in the order of the file
    losses: list[str] = field(default_factory=list)  # what could not be read, in words


class DamagedFile(ABC):
    """A file of one format, opened for recovery."""

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
        self.decoder = decoder_for(self.topics)
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
