"""What the bag reader reads from: recordings with an index by rosbags, MCAP files without one by mcap."""

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from mcap.exceptions import EndOfFile
from mcap.records import Channel, Chunk, DataEnd, McapRecord, Message, Schema
from mcap.stream_reader import MAGIC_SIZE, StreamReader, breakup_chunk
from rosbags.convert.converter import migrate_message
from rosbags.highlevel import AnyReader
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from scene_completion_ros.bags.decompression import plain_message

RENAMED_TYPES = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}  # ROS 1 names of types that ROS 2 calls otherwise
_IDL_SEPARATOR = "=" * 80 + "\n"
_ENCODINGS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


@dataclass(frozen=True)
class StoredTopic:
    """One topic of a recording."""

    name: str
    type: str
    definition: MessageDefinition = field(default=MessageDefinition(MessageDefinitionFormat.NONE, ""))


@dataclass(frozen=True)
class StoredMessage:
    """One serialised message: bag time in nanoseconds, CDR (ROS 2) or ROS 1 bytes."""

    topic: StoredTopic
    stamp_ns: int
    raw: bytes


class MessageDecoder:
    """Turns serialised messages into objects of ROS 2's shape, also those of ROS 1 bags."""

    def __init__(self, typestore: Typestore, *, is_ros2: bool) -> None:
        self._typestore, self._is_ros2 = typestore, is_ros2
        self._current = get_typestore(Stores.LATEST)
        self._migration_cache: dict[str, object] = {}

    def decode(self, raw: bytes, msgtype: str) -> Any:
        """Deserialise; a ROS 1 message of a type that ROS 2 has is converted to it, any other is left as it is."""
        if self._is_ros2:
            return self._typestore.deserialize_cdr(raw, msgtype)
        message = self._typestore.deserialize_ros1(raw, msgtype)
        current_type = self.current_type(msgtype)
        if current_type not in self._current.fielddefs:
            return message
        return migrate_message(self._typestore, self._current, msgtype, current_type, self._migration_cache, message)

    def cdr(self, raw: bytes, msgtype: str) -> bytes:
        """Serialise for ROS 2: the bytes as recorded, or converted from ROS 1."""
        if self._is_ros2:
            return raw
        return bytes(self._current.serialize_cdr(self.decode(raw, msgtype), self.current_type(msgtype)))

    def current_type(self, msgtype: str) -> str:
        """Name of a recorded type in ROS 2."""
        return RENAMED_TYPES.get(msgtype, msgtype)


class IndexedStorage:
    """A recording that rosbags opens: its folder or its files. `held` lives as long as this."""

    def __init__(self, paths: Sequence[Path], held: object = None) -> None:
        self._held = held
        self._reader = AnyReader(paths, default_typestore=get_typestore(Stores.LATEST))
        self._reader.open()
        self.topics: list[StoredTopic] = []
        self.counts: dict[str, int] = {}
        for connection in self._reader.connections:
            if connection.topic not in self.counts:
                self.topics.append(StoredTopic(connection.topic, connection.msgtype, connection.msgdef))
            self.counts[connection.topic] = self.counts.get(connection.topic, 0) + connection.msgcount
        self._by_name = {topic.name: topic for topic in self.topics}
        self.decoder = MessageDecoder(self._reader.typestore, is_ros2=self._reader.is2)
        self.start_ns = self._reader.start_time
        self.end_ns = self._reader.end_time - 1  # rosbags counts past the last message

    def messages(
        self, topics: Collection[str] | None, start_ns: int | None, stop_ns: int | None
    ) -> Iterator[StoredMessage]:
        """Yield the messages of some topics with start <= bag time < stop."""
        connections = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not connections:  # rosbags reads "none" as "all"
            return
        for connection, stamp_ns, raw in self._reader.messages(connections, start=start_ns, stop=stop_ns):
            plain = plain_message(bytes(raw)) if self._reader.is2 else bytes(raw)
            yield StoredMessage(self._by_name[connection.topic], stamp_ns, plain)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


@dataclass(frozen=True)
class _Place:
    """Where a message lies in files without an index."""

    stamp_ns: int
    topic: StoredTopic
    file: Path
    offset: int  # at which the record of the message, or of its chunk, begins
    number: int  # of the record in its chunk


class StreamedStorage:
    """MCAP files without an index, as killed recorders leave them: read once, up to where they are cut, to make one.

    `held` lives as long as this.
    """

    def __init__(self, files: Sequence[Path], held: object = None) -> None:
        self._held = held
        self.losses: list[str] = []  # what of the files cannot be read
        self.foreign: set[str] = set()  # serialisations of messages that are not read, such as "protobuf"
        places = [place for file in files for place in self._places(file)]
        self._places_by_time = sorted(places, key=attrgetter("stamp_ns"))
        self.counts: dict[str, int] = Counter(place.topic.name for place in places)
        self.topics = list({place.topic.name: place.topic for place in reversed(places)}.values())[::-1]
        self.decoder = _decoder_for(self.topics)
        stamps = [place.stamp_ns for place in self._places_by_time]
        self.start_ns, self.end_ns = (stamps[0], stamps[-1]) if stamps else (0, 0)
        self._records = lru_cache(maxsize=4)(_records_at)  # chunks of files that overlap in time take turns

    def messages(
        self, topics: Collection[str] | None, start_ns: int | None, stop_ns: int | None
    ) -> Iterator[StoredMessage]:
        """Yield the messages of some topics with start <= bag time < stop."""
        stamp = attrgetter("stamp_ns")
        first = 0 if start_ns is None else bisect_left(self._places_by_time, start_ns, key=stamp)
        last = None if stop_ns is None else bisect_left(self._places_by_time, stop_ns, key=stamp)
        for place in self._places_by_time[first:last]:
            if topics is None or place.topic.name in topics:
                record = self._records(place.file, place.offset)[place.number]
                yield StoredMessage(place.topic, place.stamp_ns, plain_message(record.data))

    def _places(self, path: Path) -> Iterator[_Place]:
        """The messages of a file, in its order."""
        schemas: dict[int, Schema] = {}
        topics: dict[int, StoredTopic] = {}
        count = 0
        with path.open("rb") as file:
            try:
                offset = MAGIC_SIZE
                for outer in StreamReader(file, emit_chunks=True).records:
                    for number, record in enumerate(_inside(outer)):
                        if isinstance(record, Schema):
                            schemas[record.id] = record
                        elif isinstance(record, Channel) and record.message_encoding not in ("cdr", ""):
                            self.foreign.add(record.message_encoding)
                        elif isinstance(record, Channel) and (schema := schemas.get(record.schema_id)):
                            encoding = _ENCODINGS.get(schema.encoding, MessageDefinitionFormat.NONE)
                            definition = MessageDefinition(encoding, schema.data.decode(errors="replace"))
                            topics[record.id] = StoredTopic(record.topic, schema.name, definition)
                        elif isinstance(record, Message) and record.channel_id in topics:
                            yield _Place(record.log_time, topics[record.channel_id], path, offset, number)
                            count += 1
                    if isinstance(outer, DataEnd):
                        break
                    offset = file.tell()
            except Exception as error:  # those of its decompressors have no common base class
                ends = isinstance(error, EndOfFile | struct.error)
                reason = "the file ends there" if ends else str(error) or type(error).__name__
                self.losses.append(f"{path.name}: cannot be read beyond its first {count} messages ({reason})")

    def close(self) -> None:
        """Forget what was read; nothing stays open."""
        self._records.cache_clear()


def _inside(record: McapRecord) -> Sequence[McapRecord]:
    return breakup_chunk(record, validate_crc=True) if isinstance(record, Chunk) else (record,)


def _records_at(file: Path, offset: int) -> Sequence[Any]:
    """The records of the chunk that begins there, or the one record that does."""
    with file.open("rb") as stream:
        stream.seek(offset)
        return _inside(next(StreamReader(stream, skip_magic=True, emit_chunks=True).records))


def _decoder_for(topics: Collection[StoredTopic]) -> MessageDecoder:
    """Build the decoder for topics whose recording rosbags does not open, from the definitions stored in it."""
    typestore = get_typestore(Stores.LATEST)
    for topic in topics:
        if topic.type in typestore.fielddefs or topic.definition.format == MessageDefinitionFormat.NONE:
            continue
        if topic.definition.format == MessageDefinitionFormat.MSG:
            found = get_types_from_msg(topic.definition.data, topic.type)
        else:
            found = {}
            for part in topic.definition.data.split(_IDL_SEPARATOR):
                text = part.partition("\n")[2] if part.startswith("IDL: ") else part
                found.update(get_types_from_idl(text) if text.strip() else {})
        typestore.register({name: definition for name, definition in found.items() if name not in typestore.fielddefs})
    return MessageDecoder(typestore, is_ros2=True)
