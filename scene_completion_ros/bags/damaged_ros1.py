"""Reading a ROS 1 bag without its index: every record up to the damage (http://wiki.ros.org/Bags/Format/2.0)."""

from __future__ import annotations

import bz2
import struct
from enum import IntEnum
from pathlib import Path

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from scene_completion_ros.bags.recovery import LZ4, ChunkedFile, Entry, decompressed
from scene_completion_ros.bags.storage import StoredTopic

MAGIC = b"#ROSBAG V2.0\n"
MAX_HEADER = 1 << 24  # bytes; a longer one is garbage


class Operation(IntEnum):
    """Kinds of records."""

    MESSAGE = 2
    CHUNK = 5
    CHUNK_INFO = 6
    CONNECTION = 7


class DamagedRos1Bag(ChunkedFile):
    """A ROS 1 bag (version 2.0) whose end or index is missing."""

    is_ros2 = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._topics: dict[int, StoredTopic] = {}

    def scan(self) -> None:
        """Index every message up to the damage."""
        if not self._begins_with(MAGIC, "a ROS 1 bag of version 2.0"):
            return
        position = len(MAGIC)
        while position < self._size:
            self._file.seek(position)
            header = self._header()
            if header is None:
                self.lose(f"the file ends or is damaged at byte {position}: what was recorded after it is lost")
                return
            fields, data_length, content = header
            if fields["op"][0] == Operation.CHUNK_INFO:
                return  # the index at the end begins
            complete = content + data_length <= self._size
            if fields["op"][0] == Operation.CHUNK:
                self._scan_chunk(position, complete=complete)
            elif complete:
                self._scan_record(fields, self._file.read(data_length), None, content)
            if not complete:
                self.lose(f"the file ends at byte {self._size} inside a record: what was recorded after it is lost")
                return
            position = content + data_length
        self.lose("the index is missing: the recording was interrupted")

    def _header(self) -> tuple[dict[str, bytes], int, int] | None:
        """Fields of the record at the file's position, length and start of its data; None where there is no record."""
        raw = self._file.read(4)
        if len(raw) < 4 or (length := struct.unpack("<I", raw)[0]) > MAX_HEADER:
            return None
        header, data_length = self._file.read(length), self._file.read(4)
        if len(data_length) < 4 or (fields := _fields(header)) is None:
            return None
        return fields, struct.unpack("<I", data_length)[0], self._file.tell()

    def _scan_chunk(self, position: int, *, complete: bool) -> None:
        try:
            records = self._chunk(position)
        except (OSError, ValueError, EOFError, RuntimeError, KeyError) as error:
            self.lose(f"the chunk at byte {position} is damaged ({error}): its messages are lost")
            return
        inside = 0
        while inside + 4 <= len(records):
            (length,) = struct.unpack_from("<I", records, inside)
            fields = _fields(records[inside + 4 : inside + 4 + length])
            start = inside + 8 + length
            if fields is None or start > len(records):
                break
            (data_length,) = struct.unpack_from("<I", records, start - 4)
            if start + data_length > len(records):
                break
            self._scan_record(fields, records[start : start + data_length], position, start)
            inside = start + data_length
        if complete and inside != len(records):
            self.lose(f"the end of the chunk at byte {position} is damaged: messages in it are lost")

    def _read_chunk(self, position: int) -> bytes:
        self._file.seek(position)
        header = self._header()
        if header is None:
            raise ValueError("no record header")
        fields, data_length, _ = header
        compression = fields["compression"].decode()
        known = {"bz2": bz2.BZ2Decompressor, **LZ4}
        return decompressed(self._file.read(data_length), compression, known, uncompressed="none")

    def _scan_record(self, fields: dict[str, bytes], content: bytes, chunk: int | None, offset: int) -> None:
        operation = fields["op"][0]
        if operation == Operation.CONNECTION:
            described = _fields(content) or {}
            if {"type", "message_definition"} <= set(described) and {"conn", "topic"} <= set(fields):
                package, _, name = described["type"].decode().partition("/")
                definition = described["message_definition"].decode(errors="replace")
                self._topics[struct.unpack("<I", fields["conn"])[0]] = StoredTopic(
                    fields["topic"].decode(),
                    f"{package}/msg/{name}",
                    MessageDefinition(MessageDefinitionFormat.MSG, definition),
                )
        elif operation == Operation.MESSAGE:
            (connection,) = struct.unpack("<I", fields["conn"])
            if connection not in self._topics:
                self.lose(f"a message of connection {connection}, which is described nowhere before it")
                return
            seconds, nanoseconds = struct.unpack("<II", fields["time"])
            stamp_ns = seconds * 1_000_000_000 + nanoseconds
            self.result.entries.append(Entry(stamp_ns, self._topics[connection], chunk, offset, len(content)))


def _fields(header: bytes) -> dict[str, bytes] | None:
    """Split a record header into its fields; None where it is none."""
    fields: dict[str, bytes] = {}
    position = 0
    while position + 4 <= len(header):
        (length,) = struct.unpack_from("<I", header, position)
        name, equals, value = header[position + 4 : position + 4 + length].partition(b"=")
        if not equals or position + 4 + length > len(header):
            return None
        fields[name.decode(errors="replace")] = value
        position += 4 + length
    return fields if fields else None
