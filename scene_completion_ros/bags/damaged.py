"""Recovery of damaged recordings: an MCAP without its index (https://mcap.dev/spec), and an sqlite3 never closed.

A recording that was killed, copied half or stored on a full disk has no index, and rosbags refuses it. The messages
before the damage are there: each format is scanned from its beginning, record by record.
"""

import shutil
import sqlite3
import struct
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import lz4.frame  # type: ignore[import-untyped]
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from scene_completion_ros.bags.storage import StoredMessage, StoredTopic, decoder_for, definition_of


@dataclass(frozen=True)
class Entry:
    """Where one message lies: in a compressed chunk at `chunk`, or in the file itself (`chunk` is None)."""

    stamp_ns: int
    topic: StoredTopic
    chunk: int | None
    offset: int
    size: int


class DamagedFile(ABC):
    """A file of one format, opened for recovery."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []  # messages found, in the order of the file
        self.losses: list[str] = []  # what could not be read, in words
        self.resources = ExitStack()  # what is to be closed

    @abstractmethod
    def scan(self) -> None:
        """Find every message up to the damage."""

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """Read the bytes of a message found by `scan`."""

    def lose(self, what: str) -> None:
        """Note a loss."""
        self.losses.append(f"{self.path.name}: {what}")


class RecoveredStorage:
    """The messages recovered from the files of one recording, in the order of bag time."""

    def __init__(self, files: Collection[DamagedFile]) -> None:
        self._files = list(files)
        for file in self._files:
            file.scan()
        entries = [entry for file in self._files for entry in file.entries]
        self.losses = [loss for file in self._files for loss in file.losses]
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
            for entry in file.entries
            if (topics is None or entry.topic.name in topics)
            and (start_ns is None or entry.stamp_ns >= start_ns)
            and (stop_ns is None or entry.stamp_ns < stop_ns)
        ]
        for entry, file in sorted(wanted, key=lambda pair: pair[0].stamp_ns):
            yield StoredMessage(entry.topic, entry.stamp_ns, file.read(entry))

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.resources.close()


if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")  # opcode, length of the content
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK = struct.Struct("<QQQI")  # start, end, uncompressed size, CRC of the uncompressed content


class Opcode(IntEnum):
    """Records this module looks into, and the last one of the specification."""

    SCHEMA = 0x03
    CHANNEL = 0x04
    MESSAGE = 0x05
    CHUNK = 0x06
    DATA_END = 0x0F
    PRIVATE = 0x80  # first opcode that applications may use


class DamagedMcap(DamagedFile):
    """An MCAP file whose end, index or some chunk is missing or broken."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = self.resources.enter_context(path.open("rb"))
        self._size = path.stat().st_size
        self._kept: tuple[int, bytes] = (-1, b"")
        self._schemas: dict[int, tuple[str, MessageDefinition]] = {}
        self._channels: dict[int, StoredTopic] = {}

    def scan(self) -> None:
        """Index every message up to the damage."""
        if self._file.read(len(MAGIC)) != MAGIC:
            self.lose("everything: it does not start like an MCAP file")
            return
        position = len(MAGIC)
        while position + _RECORD.size <= self._size:
            self._file.seek(position)
            opcode, length = _RECORD.unpack(self._file.read(_RECORD.size))
            content = position + _RECORD.size
            if opcode == Opcode.DATA_END:
                return
            if opcode == 0 or Opcode.DATA_END < opcode < Opcode.PRIVATE:
                self.lose(f"everything from byte {position} on: no record starts there")
                return
            complete = content + length <= self._size
            if opcode == Opcode.CHUNK:
                self._scan_chunk(content, min(length, self._size - content), complete=complete)
            elif complete:
                self._scan_record(opcode, self._file.read(length) if opcode <= Opcode.MESSAGE else b"", None, content)
            if not complete:
                self.lose(f"the file ends at byte {self._size} inside a record: what was recorded after it is lost")
                return
            position = content + length
        self.lose(f"the file ends at byte {self._size} without an end record: the recording was interrupted")

    def read(self, entry: Entry) -> bytes:
        """Read the bytes of a message found by `scan`."""
        if entry.chunk is None:
            self._file.seek(entry.offset)
            return self._file.read(entry.size)
        return self._chunk(entry.chunk)[entry.offset : entry.offset + entry.size]

    def _scan_chunk(self, content: int, available: int, *, complete: bool) -> None:
        try:
            records = self._chunk(content)
        except (ValueError, EOFError, RuntimeError, struct.error, zstd.ZstdError) as error:
            self.lose(f"the chunk of {available} bytes at byte {content} is damaged ({error}): its messages are lost")
            return
        position = 0
        while position + _RECORD.size <= len(records):
            opcode, length = _RECORD.unpack_from(records, position)
            start = position + _RECORD.size
            if start + length > len(records):
                if complete:
                    self.lose(f"a record of the chunk at byte {content} reaches beyond its end: it is lost")
                return
            self._scan_record(opcode, records[start : start + length], content, start)
            position = start + length

    def _chunk(self, content: int) -> bytes:
        """Uncompressed records of the chunk at an offset, the last of which is kept; of a cut one, what is there."""
        if self._kept[0] != content:
            self._kept = content, self._read_chunk(content)
        return self._kept[1]

    def _read_chunk(self, content: int) -> bytes:
        self._file.seek(content)
        _, _, uncompressed_size, checksum = _CHUNK.unpack(self._file.read(_CHUNK.size))
        (name_length,) = struct.unpack("<I", self._file.read(4))
        compression = self._file.read(name_length).decode()
        (size,) = struct.unpack("<Q", self._file.read(8))
        compressed = self._file.read(size)
        if compression == "zstd" and len(compressed) == size:
            records = bytes(zstd.decompress(compressed))
        else:
            records = _decompressed(compressed, compression)
        if len(compressed) == size and (len(records) != uncompressed_size or (checksum and crc32(records) != checksum)):
            raise ValueError("checksum or size differs")
        return records

    def _scan_record(self, opcode: int, content: bytes, chunk: int | None, offset: int) -> None:
        if opcode == Opcode.SCHEMA:
            (schema,) = struct.unpack_from("<H", content)
            name, rest = _string(content[2:])
            encoding, rest = _string(rest)
            text, _ = _string(rest)
            self._schemas[schema] = (name, definition_of(encoding, text))
        elif opcode == Opcode.CHANNEL:
            channel, schema = struct.unpack_from("<HH", content)
            topic, _ = _string(content[4:])
            if schema in self._schemas:
                self._channels[channel] = StoredTopic(topic, *self._schemas[schema])
        elif opcode == Opcode.MESSAGE and len(content) >= _MESSAGE.size:
            channel, _, log_time, _ = _MESSAGE.unpack_from(content)
            if channel not in self._channels:
                self.lose(f"a message of channel {channel}, which is described nowhere before it")
                return
            entry = Entry(
                log_time, self._channels[channel], chunk, offset + _MESSAGE.size, len(content) - _MESSAGE.size
            )
            self.entries.append(entry)


def _decompressed(data: bytes, compression: str) -> bytes:
    """Decompress; the beginning of a cut stream gives the beginning of the content."""
    if not compression:
        return data
    known = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}
    if compression not in known:
        raise ValueError(f"unknown compression {compression!r}")
    return bytes(known[compression]().decompress(data))


def _string(content: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack_from("<I", content)
    return content[4 : 4 + length].decode(errors="replace"), content[4 + length :]


def unfinished_journal(path: Path) -> Path | None:
    """The write-ahead log or rollback journal that a killed recorder left beside its database, if any.

    Its content belongs to the recording, but readers that open the database as immutable do not see it.
    """
    for suffix in ("-wal", "-journal"):
        journal = path.with_name(path.name + suffix)
        if journal.is_file() and journal.stat().st_size > 0:
            return journal
    return None


class DamagedSqlite(DamagedFile):
    """A `.db3` file that is cut short or has an unfinished journal beside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        journal = unfinished_journal(path)
        if journal is None:
            self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        else:
            # SQLite finishes or rolls back the journal when it opens the database: in a copy, the recording stays as
            # it is.
            scratch = Path(self.resources.enter_context(TemporaryDirectory()))
            for source in (path, journal):
                shutil.copyfile(source, scratch / source.name)
            self._database = sqlite3.connect(scratch / path.name)
        self.resources.callback(self._database.close)

    def scan(self) -> None:
        """Index every message up to the damage."""
        # SQLite refuses a file that is shorter than its header says, unless its schema may be repaired.
        self._database.execute("PRAGMA writable_schema = ON")
        try:
            topics = self._topics()
        except (sqlite3.Error, sqlite3.Warning) as error:
            self.lose(f"everything: the table of topics cannot be read ({error})")
            return
        try:
            rows = self._database.execute("SELECT id, topic_id, timestamp, data FROM messages ORDER BY id")
            for identifier, topic, stamp_ns, data in rows:  # reading the data finds missing pages
                if topic in topics:
                    self.entries.append(Entry(stamp_ns, topics[topic], None, identifier, len(data)))
        except sqlite3.Error as error:
            after = f"after message {self.entries[-1].offset}" if self.entries else "from the first on"
            self.lose(f"the database is damaged ({error}): the messages {after} are lost")

    def read(self, entry: Entry) -> bytes:
        """Read the bytes of a message found by `scan`."""
        (data,) = self._database.execute("SELECT data FROM messages WHERE id = ?", (entry.offset,)).fetchone()
        return bytes(data)

    def _topics(self) -> dict[int, StoredTopic]:
        definitions: dict[str, MessageDefinition] = {}
        with suppress(sqlite3.Error):  # recordings of Humble and before hold no definitions
            for name, encoding, text in self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                definitions[name] = definition_of(encoding, text)
        none = MessageDefinition(MessageDefinitionFormat.NONE, "")
        rows = self._database.execute("SELECT id, name, type FROM topics")
        return {key: StoredTopic(name, kind, definitions.get(kind, none)) for key, name, kind in rows}
