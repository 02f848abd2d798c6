"""Opening a recording: by rosbags, or, where an MCAP has no index, by the stream reader of mcap."""

from pathlib import Path
from typing import Any, TypeAlias

from mcap.reader import make_reader

from scene_completion_ros.bags.storage import IndexedStorage, StreamedStorage
from scene_completion_ros.errors import BagError
from scene_completion_ros.untrusted_files import SHOWN, read_yaml

FORMATS = {
    ".mcap": "Recover what it holds with `mcap recover`",
    ".db3": "Recover what it holds with `.recover` of sqlite3",
    ".bag": "Repair it with `rosbag reindex`",
}  # suffix -> what to do about a damaged one
Storage: TypeAlias = IndexedStorage | StreamedStorage  # topics, and messages in the order of bag time


def open_storage(path: Path) -> tuple[Storage, list[str]]:
    """Open a recording: the storage, and what is lost of it. Raises BagError where none is there, or it is damaged."""
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
    compressed = str(information.get("compression_mode") or "none").lower() != "none"  # metadata.yaml alone says so
    streamed, reason = files[0].suffix == ".mcap" and not compressed, ""
    if not streamed or all(map(_has_index, files)):
        attempts = [[path]] if information else []
        attempts += [] if compressed else [files]
        for sources in attempts:
            try:
                return IndexedStorage(sources), losses
            except Exception as error:  # rosbags raises errors of many kinds on damaged files
                reason = str(error) or type(error).__name__
    if not streamed:
        raise damaged(path, reason)
    try:
        storage = StreamedStorage(files)
    except Exception as error:  # such as those of a parser of message definitions
        raise damaged(path, str(error) or type(error).__name__) from error
    return storage, [*losses, *(f"{loss}. {FORMATS['.mcap']}" for loss in storage.losses)]


def damaged(path: Path, reason: str) -> BagError:
    """The error for a recording that cannot be read, with the tool that may repair it."""
    return BagError(f"is damaged ({reason})", where=str(path), cure=FORMATS[_storage_files(path)[0].suffix])


def _has_index(file: Path) -> bool:
    """Whether an MCAP has the index that rosbags reads it by."""
    try:
        with file.open("rb") as stream:
            summary = make_reader(stream).get_summary()
    except Exception:  # whatever a file that was cut makes mcap raise
        return False
    return summary is not None and bool(summary.chunk_indexes)


def _storage_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in FORMATS and file.is_file())
        if not files:
            what = "the folder holds no .mcap, .db3 or .bag file"
            raise BagError(what, where=str(path), cure="Name the folder of a rosbag2 recording")
    elif path.suffix in FORMATS:
        files = [path]
    else:
        what = f"unknown kind of file {path.suffix!r}"
        raise BagError(what, where=str(path), cure="Expected .mcap, .db3, .bag or a folder")
    if len({file.suffix for file in files}) > 1:
        raise BagError("the folder holds files of several formats", where=str(path), cure="Name one of the files")
    if empty := [file for file in files if file.stat().st_size == 0]:
        if len(empty) == len(files):
            raise BagError("file is empty (0 bytes)", where=str(empty[0]), cure="Record it again")
        files = [file for file in files if file not in empty]
    return files


def _metadata(path: Path) -> dict[str, Any]:
    """What metadata.yaml says of a folder; nothing where there is none, or it cannot be read."""
    try:
        information = read_yaml(path / "metadata.yaml", BagError, cure="", kind=dict).get("rosbag2_bagfile_information")
    except BagError:
        return {}
    return information if isinstance(information, dict) else {}
