"""What the bag reader reads from: recordings with an index by rosbags, MCAP files without one by mcap."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcap.records import Channel, DataEnd, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.convert.converter import migrate_message
from rosbags.highlevel import AnyReader
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

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
    """A recording that rosbags opens: its folder or its files."""

    def __init__(self, paths: Sequence[Path]) -> None:
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
            yield StoredMessage(self._by_name[connection.topic], stamp_ns, bytes(raw))

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


class StreamedStorage:
    """MCAP files without an index, as killed recorders leave them: read from the beginning to where they are cut."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._cut: dict[str, str] = {}  # name of a file -> what of it cannot be read
        self.counts: dict[str, int] = Counter()
        topics: dict[str, StoredTopic] = {}
        stamps = []
        for message in self._read():
            self.counts[message.topic.name] += 1
            topics.setdefault(message.topic.name, message.topic)
            stamps.append(message.stamp_ns)
        self.topics, self.losses = list(topics.values()), list(self._cut.values())
        self._order = sorted(range(len(stamps)), key=stamps.__getitem__)  # numbers of the messages, by bag time
        self.decoder = _decoder_for(self.topics)
        self.start_ns, self.end_ns = min(stamps, default=0), max(stamps, default=0)

    def messages(
        self, topics: Collection[str] | None, start_ns: int | None, stop_ns: int | None
    ) -> Iterator[StoredMessage]:
        """Yield the messages of some topics with start <= bag time < stop."""
        early: dict[int, StoredMessage] = {}  # what was read before its turn
        due = iter(self._order)
        number = next(due, None)
        for index, read in enumerate(self._read()):
            early[index] = read
            while number in early:
                message, number = early.pop(number), next(due, None)
                if (
                    (topics is None or message.topic.name in topics)
                    and (start_ns is None or message.stamp_ns >= start_ns)
                    and (stop_ns is None or message.stamp_ns < stop_ns)
                ):
                    yield message

    def _read(self) -> Iterator[StoredMessage]:
        """All messages, in the order of the files."""
        for path in self._files:
            schemas: dict[int, Schema] = {}
            topics: dict[int, StoredTopic] = {}
            count = 0
            with path.open("rb") as file:
                try:
                    for record in StreamReader(file, validate_crcs=True).records:
                        if isinstance(record, Schema):
                            schemas[record.id] = record
                        elif isinstance(record, Channel) and (schema := schemas.get(record.schema_id)):
                            encoding = _ENCODINGS.get(schema.encoding, MessageDefinitionFormat.NONE)
                            definition = MessageDefinition(encoding, schema.data.decode(errors="replace"))
                            topics[record.id] = StoredTopic(record.topic, schema.name, definition)
                        elif isinstance(record, Message) and record.channel_id in topics:
                            yield StoredMessage(topics[record.channel_id], record.log_time, record.data)
                            count += 1
                        elif isinstance(record, DataEnd):
                            break
                except Exception as error:  # those of its decompressors have no common base class
                    reason = str(error) or type(error).__name__
                    self._cut[path.name] = f"{path.name}: cannot be read beyond its first {count} messages ({reason})"

    def close(self) -> None:
        """Nothing stays open."""


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
