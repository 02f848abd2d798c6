"""What the bag reader reads from: recordings that rosbags opens, decompressed where that does not do it."""

import io
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import zstandard
from rosbags.convert.converter import migrate_message
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import McapReader, Schema
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from scene_completion_ros.errors import BagError
from scene_completion_ros.untrusted_files import SHOWN, read_yaml

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


RENAMED_TYPES = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}  # ROS 1 names of types that ROS 2 calls otherwise
FORMATS = {
    ".mcap": "Recover what it holds with `mcap recover`",
    ".db3": "Recover what it holds with `.recover` of sqlite3",
    ".bag": "Repair it with `rosbag reindex`",
}  # suffix -> what to do about a damaged one
_UNFINISHED = ".bag.active"  # of a `rosbag record` that was killed


_PROFILE = b"\4\0\0\0ros2"  # which rosbags insists on
_PROFILE_AT = 17  # in an MCAP: its header begins with it, behind magic, kind and length
_IDL = ("ros2idl", "omgidl")  # languages of types that rosbags reads, and "ros2msg"
_IDL_NAME = re.compile(r"={80}\nIDL: .*\n")  # stands between those of ROS 2
_ROS_2 = ("cdr", "")  # how its messages are serialised; some recorders do not say it
FOREIGN_CURE = "Record or export them as messages of ROS 2 (cdr); of ROS 1, name the .bag"


class _AnyProfile(io.BufferedReader):
    """An MCAP of any profile, as one of ROS 2: what its channels hold, they say themselves."""

    def read(self, size: int | None = -1, /) -> bytes:
        place, content = self.tell(), super().read(size)
        return _PROFILE + content[len(_PROFILE) :] if place == _PROFILE_AT else content


class _Schemas(dict[int, Schema]):
    """Schemas, those of other languages than ROS 2 has or with errors in them without their definition."""

    def __setitem__(self, key: int, schema: Schema) -> None:
        super().__setitem__(key, schema if _defines(schema) else schema._replace(encoding="", data=""))


@lru_cache(512)
def _defines(schema: Schema) -> bool:
    """Tell if rosbags can read the definition of a type."""
    text = schema.data.strip()
    try:
        if schema.encoding == "ros2msg":
            return bool(text and get_types_from_msg(text, schema.name))
        return schema.encoding in _IDL and all(get_types_from_idl(one) for one in _IDL_NAME.split(text) if one)
    except Exception:  # the parser of rosbags, in any of its states
        return False


class _McapReader(McapReader):
    """Reads an MCAP of any profile, also with channels whose messages are not of ROS 2."""

    def _open(self) -> None:
        assert isinstance(self.bio, io.BufferedReader)
        self.bio, self.schemas = _AnyProfile(self.bio.detach()), _Schemas()
        super()._open()
        self.bio = io.BufferedReader(self.bio.detach())


class _Reader(Reader):
    STORAGE_PLUGINS = {**Reader.STORAGE_PLUGINS, ".mcap": _McapReader}  # noqa: RUF012 # of rosbags


class Storage:
    """A recording that rosbags opens: its folder or its files. `held` lives as long as this."""

    def __init__(self, paths: Sequence[Path], held: object = None) -> None:
        self._held = held
        self._reader = AnyReader(paths, default_typestore=get_typestore(Stores.LATEST))
        if self._reader.is2:
            self._reader.readers = [_Reader(path) for path in paths]
        self._reader.open()
        # Of messages that are read once the files are closed.
        self._typestore, self._is_ros2 = self._reader.typestore, self._reader.is2
        self._current = get_typestore(Stores.LATEST)
        self._migration_cache: dict[str, object] = {}
        self.types: dict[str, str] = {}  # by topic, as recorded
        self.counts: Counter[str] = Counter()  # of messages, by topic
        self.foreign: dict[str, str] = {}  # topics of messages that are not of ROS, and how these are serialised
        self._connections: list[Connection] = []  # of all others
        for connection in self._reader.connections:
            serialised = getattr(connection.ext, "serialization_format", "cdr")  # those of ROS 1 do not say it
            if serialised.lower() not in _ROS_2:
                self.foreign[connection.topic] = serialised
                continue
            self._connections.append(connection)
            self.types.setdefault(connection.topic, connection.msgtype)
            self.counts[connection.topic] += connection.msgcount
        self.start_ns = self._reader.start_time
        self.end_ns = self._reader.end_time - 1  # rosbags counts past the last message

    def messages(
        self, topics: Collection[str] | None, start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Yield those of some topics with start <= bag time < stop: topic, bag time, and CDR (ROS 2) or ROS 1 bytes."""
        connections = [c for c in self._connections if topics is None or c.topic in topics]
        if not connections:  # rosbags reads "none" as "all"
            return
        for connection, stamp_ns, raw in self._reader.messages(connections, start=start_ns, stop=stop_ns):
            yield connection.topic, stamp_ns, plain_message(bytes(raw)) if self._is_ros2 else bytes(raw)

    def decode(self, raw: bytes, msgtype: str) -> Any:
        """Deserialise; a ROS 1 message of a type that ROS 2 has is converted to it, any other is left as it is."""
        if self._is_ros2:  # some recorders leave the definition of one type out, and write those of others
            store = self._typestore if msgtype in self._typestore.fielddefs else self._current
            return store.deserialize_cdr(raw, msgtype)
        message, current = self._typestore.deserialize_ros1(raw, msgtype), current_type(msgtype)
        if current not in self._current.fielddefs:
            return message
        return migrate_message(self._typestore, self._current, msgtype, current, self._migration_cache, message)

    def cdr(self, raw: bytes, msgtype: str) -> bytes:
        """Serialise for ROS 2: the bytes as recorded, or converted from ROS 1."""
        if self._is_ros2:
            return raw
        return bytes(self._current.serialize_cdr(self.decode(raw, msgtype), current_type(msgtype)))

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


def current_type(msgtype: str) -> str:
    """Name of a recorded type in ROS 2."""
    return RENAMED_TYPES.get(msgtype, msgtype)


def names_bag(file: Path) -> bool:
    """Whether a file is one of a recording, by its name."""
    return _format(file) in FORMATS or file.name.endswith(_UNFINISHED)


def open_storage(path: Path) -> tuple[Storage, list[str]]:
    """Open a recording: the storage, and what is lost of it. Raises BagError: none is there, or it cannot be read."""
    if not path.exists():
        raise BagError("no such file or folder", where=str(path), cure="Check the path of the bag")
    files = _storage_files(path)
    for file in files:
        # The journal of a killed recorder belongs to its database, and rosbags does not see it.
        journals = (file.with_name(file.name + suffix) for suffix in ("-wal", "-journal"))
        if left := [journal.name for journal in journals if journal.is_file() and journal.stat().st_size > 0]:
            raise damaged(file, f"its recorder was interrupted: {left[0]} holds a part of it")
    information = _metadata(path)  # before rosbags reads it, which knows no limits
    named, present = information.get("relative_file_paths"), {file.name for file in path.glob("*")}
    missing = [str(name) for name in named if Path(str(name)).name not in present] if isinstance(named, list) else []
    losses = [f"{name[:SHOWN]}: file is missing" for name in missing]
    copy = decompressed(files) if any(file.suffix in COMPRESSED for file in files) else None
    if copy is not None:
        files, losses = copy.files, losses + copy.losses
    # What opens files reads compressed messages, too; rosbags knows them by metadata.yaml, and no limit.
    packed = copy is not None or str(information.get("compression_mode") or "none").lower() != "none"
    reason = ""
    for sources in [files] if packed or not information else [[path], files]:
        try:
            return Storage(sources, copy), losses
        except Exception as error:  # rosbags raises errors of many kinds on damaged files
            reason = str(error) or type(error).__name__
    raise damaged(path, reason)


def damaged(path: Path, reason: str) -> BagError:
    """The error for a recording that cannot be read, with the tool that may repair it."""
    file = _storage_files(path)[0]
    cure = f"Decompress it with `zstd -d`. {FORMATS[_format(file)]}" if file.suffix in COMPRESSED else ""
    return BagError(f"is damaged ({reason})", where=str(path), cure=cure or FORMATS[_format(file)])


def _format(file: Path) -> str:
    """The suffix of a file, before it was compressed."""
    return Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix


def _storage_files(path: Path) -> list[Path]:
    files = sorted(file for file in path.iterdir() if names_bag(file) and file.is_file()) if path.is_dir() else [path]
    if not files:
        what = "the folder holds no .mcap, .db3 or .bag file"
        raise BagError(what, where=str(path), cure="Name the folder of a rosbag2 recording")
    if not all(map(names_bag, files)):
        what = f"unknown kind of file {path.suffix!r}"
        raise BagError(what, where=str(path), cure="Expected .mcap, .db3, .bag or a folder")
    if unfinished := [file for file in files if file.name.endswith(_UNFINISHED)]:
        name = unfinished[0].name
        cure = f"Run `rosbag reindex {name}`, and name it {name.removesuffix('.active')}"
        raise BagError("its `rosbag record` did not end", where=str(unfinished[0]), cure=cure)
    files = [file for file in files if file.suffix not in COMPRESSED or file.with_suffix("") not in files]
    if len(set(map(_format, files))) > 1:
        raise BagError("the folder holds files of several formats", where=str(path), cure="Name one of the files")
    if empty := [file for file in files if file.stat().st_size == 0]:
        if len(empty) == len(files):
            raise BagError("file is empty (0 bytes)", where=str(empty[0]), cure="Record it again")
        files = [file for file in files if file not in empty]
    return files


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata.yaml of a folder; empty where there is none, or it cannot be read."""
    try:
        information = read_yaml(path / "metadata.yaml", BagError, cure="", kind=dict).get("rosbag2_bagfile_information")
    except BagError:
        return {}
    return information if isinstance(information, dict) else {}
