"""Opening a recording: intact through rosbags, damaged through recovery."""

import contextlib
from pathlib import Path
from typing import Any, TypeAlias

from scene_completion_ros.bags.damaged import (
    DamagedFile,
    DamagedMcap,
    DamagedSqlite,
    RecoveredStorage,
    unfinished_journal,
)
from scene_completion_ros.bags.storage import IntactStorage
from scene_completion_ros.errors import BagError
from scene_completion_ros.untrusted_files import SHOWN, read_yaml, shown

FORMATS: dict[str, type[DamagedFile]] = {".mcap": DamagedMcap, ".db3": DamagedSqlite}
ROS1 = ".bag"
Storage: TypeAlias = IntactStorage | RecoveredStorage  # topics, and messages in the order of bag time


def open_storage(path: Path) -> tuple[Storage, list[str]]:
    """Open a recording: the storage, and what is lost of it. Raises BagError where no recording is there."""
    if not path.exists():
        raise BagError("no such file or folder", where=str(path), cure="Check the path of the bag")
    files = _storage_files(path)
    if not any(unfinished_journal(file) for file in files):
        try:
            _metadata(path)  # before rosbags reads it, which knows no limits
            # ROS 1 has no metadata: rosbags is to open the only file of such a folder.
            alone = path.is_dir() and not (path / "metadata.yaml").is_file() and len(files) == 1
            return IntactStorage(files[0] if alone else path), []
        except Exception as error:  # rosbags raises errors of many kinds on damaged files
            reason = str(error) or type(error).__name__
    else:
        reason = "its recorder was interrupted"
    return recover_storage(path, reason)


def recover_storage(path: Path, reason: str) -> tuple[RecoveredStorage, list[str]]:
    """Scan the files of a recording that cannot be read in the ordinary way.

    Raises BagError where no file holds a message. `reason`: why it cannot, for the error and the list of losses.
    """
    files = _storage_files(path)
    if files[0].suffix == ROS1:
        raise BagError(reason, where=str(path), cure="Repair a damaged ROS 1 bag with `rosbag reindex`")
    information: dict[str, Any] = {}
    with contextlib.suppress(BagError):
        information = _metadata(path)
    if mode := information.get("compression_mode"):
        what = f"{reason}; recovery does not support compression_mode {shown(mode)}"
        raise BagError(what, where=str(path), cure="Repair it with `ros2 bag reindex`")
    named, present = information.get("relative_file_paths"), {file.name for file in path.glob("*")}
    missing = [str(name) for name in named if Path(str(name)).name not in present] if isinstance(named, list) else []
    storage = RecoveredStorage([FORMATS[file.suffix](file) for file in files])
    losses = [*(f"{name[:SHOWN]}: file is missing" for name in missing), *storage.losses]
    found = sum(storage.counts.values())
    expected = information.get("message_count")
    if isinstance(expected, int) and expected > found:
        losses.append(f"metadata.yaml counts {expected} messages, {found} were recovered")
    if not found:
        storage.close()
        details = "; ".join([reason, *losses])
        raise BagError(f"holds no readable message ({details})", where=str(path), cure="Record it again")
    return storage, losses


def _storage_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (*FORMATS, ROS1) and file.is_file())
        if not files:
            what = "the folder holds no .mcap, .db3 or .bag file"
            raise BagError(what, where=str(path), cure="Name the folder of a rosbag2 recording")
    elif path.suffix in (*FORMATS, ROS1):
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
    """What metadata.yaml says of a folder; nothing where there is none. A `BagError` if it cannot be read."""
    if not (path / "metadata.yaml").is_file():
        return {}
    document = read_yaml(path / "metadata.yaml", BagError, cure="Repair it with `ros2 bag reindex`", kind=dict)
    information = document.get("rosbag2_bagfile_information")
    return information if isinstance(information, dict) else {}
