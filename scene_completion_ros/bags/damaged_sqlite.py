"""Reading the sqlite3 file of a rosbag2 recording that was cut or never closed."""

import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from scene_completion_ros.bags.recovery import DamagedFile, Entry
from scene_completion_ros.bags.storage import StoredTopic, definition_of


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
        self._scratch: TemporaryDirectory[str] | None = None
        journal = unfinished_journal(path)
        if journal is None:
            self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
            return
        # SQLite finishes or rolls back the journal when it opens the database: in a copy, the recording stays as it is.
        self._scratch = TemporaryDirectory()
        for source in (path, journal):
            shutil.copyfile(source, Path(self._scratch.name) / source.name)
        self._database = sqlite3.connect(Path(self._scratch.name) / path.name)

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
                    self.result.entries.append(Entry(stamp_ns, topics[topic], None, identifier, len(data)))
        except sqlite3.Error as error:
            after = f"after message {self.result.entries[-1].offset}" if self.result.entries else "from the first on"
            self.lose(f"the database is damaged ({error}): the messages {after} are lost")

    def read(self, entry: Entry) -> bytes:
        """Read the bytes of a message found by `scan`."""
        (data,) = self._database.execute("SELECT data FROM messages WHERE id = ?", (entry.offset,)).fetchone()
        return bytes(data)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        if self._scratch is not None:
            self._scratch.cleanup()

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
