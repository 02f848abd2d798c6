"""Opening a recording: by rosbags, or, where an MCAP has no index, by the stream reader of mcap."""

from pathlib import Path
from typing import Any, TypeAlias

from mcap.reader import make_reader

from scene_completion_ros.bags.decompression import COMPRESSED, decompressed
from scene_completion_ros.bags.storage import IndexedStorage, StreamedStorage
from scene_completion_ros.errors import BagError
from scene_completion_ros.untrusted_files import SHOWN, read_yaml

FORMATS = {
    ".mcap": "Recover what it holds with `mcap recover`",
    ".db3": "Recover what it holds with `.recover` of sqlite3",
    ".bag": "Repair it with `rosbag reindex`",
}  # suffix -> what to do about a damaged one
_UNFINISHED = ".bag.active"  # of a `rosbag record` that was killed
Storage: TypeAlias = IndexedStorage | StreamedStorage  # topics, and messages in the order of bag time


def names_bag(file: Path) -> bool:
    """Whether a file is one of a recording, by its name."""
    return _format(file) in FORMATS or file.name.endswith(_UNFINISHED)


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
    copy = decompressed(files) if any(file.suffix in COMPRESSED for file in files) else None
    if copy is not None:
        files, losses = copy.files, losses + copy.losses
    streamed, reason = files[0].suffix == ".mcap", ""
    described = [_described(file) for file in files if streamed]
    if any(profile == "ros1" for profile, _ in described):
        cure = "Name the .bag that it was made of, or convert that: `rosbags-convert --src NAME.bag --dst NAME`"
        raise BagError("is an MCAP with messages of ROS 1, which is not read", where=str(path), cure=cure)
    if all(has_index for _, has_index in described):
        # Whoever opens files reads compressed messages, too; rosbags knows them by metadata.yaml, and no limit.
        packed = copy is not None or str(information.get("compression_mode") or "none").lower() != "none"
        for sources in [files] if packed or not information else [[path], files]:
            try:
                storage = IndexedStorage(sources, copy)
            except Exception as error:  # rosbags raises errors of many kinds on damaged files
                reason = str(error) or type(error).__name__
            else:
                return storage, losses
    if not streamed:
        raise damaged(path, reason)
    try:
        recovered = StreamedStorage(files, copy)
    except Exception as error:  # such as those of a parser of message definitions
        raise damaged(path, str(error) or type(error).__name__) from error
    if recovered.foreign and not recovered.counts:
        what = f"holds no messages of ROS 2, but such in {', '.join(sorted(recovered.foreign))}"
        raise BagError(what, where=str(path), cure="Record or export them as messages of ROS 2 (cdr)")
    return recovered, [*losses, *(f"{loss}. {FORMATS['.mcap']}" for loss in recovered.losses)]


def damaged(path: Path, reason: str) -> BagError:
    """The error for a recording that cannot be read, with the tool that may repair it."""
    file = _storage_files(path)[0]
    cure = f"Decompress it with `zstd -d`. {FORMATS[_format(file)]}" if file.suffix in COMPRESSED else ""
    return BagError(f"is damaged ({reason})", where=str(path), cure=cure or FORMATS[_format(file)])


def _described(file: Path) -> tuple[str, bool]:
    """What an MCAP says that it holds, such as "ros1", and whether it has the index that rosbags reads it by."""
    profile = ""
    try:
        with file.open("rb") as stream:
            reader = make_reader(stream)
            profile = reader.get_header().profile
            summary = reader.get_summary()
    except Exception:  # whatever a file that was cut makes mcap raise
        return profile, False
    return profile, summary is not None and bool(summary.chunk_indexes)


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
    """What metadata.yaml says of a folder; nothing where there is none, or it cannot be read."""
    try:
        information = read_yaml(path / "metadata.yaml", BagError, cure="", kind=dict).get("rosbag2_bagfile_information")
    except BagError:
        return {}
    return information if isinstance(information, dict) else {}
