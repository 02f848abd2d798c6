"""A folder of recorded pieces within a budget: each is a bag, with a JSON in it that says why it is there.

A piece is written in a hidden folder, and gets its name when it is whole. Only folders with such a JSON are counted,
and only they are deleted. A hidden folder has a JSON as well, from its beginning: the next recorder knows it by that.
"""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scene_completion_ros.bags.rolling import RolledMessage, RolledPiece
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError
from scene_completion_ros.untrusted_files import read_json

FORMAT = "scene_completion_record/1"
DESCRIPTION = "record.json"
_PART = ".part"
_UNFINISHED = {"format": FORMAT}  # what the JSON of a hidden folder says, in which a piece is written
_LARGEST_DESCRIPTION = 1_000_000  # bytes
_A_MESSAGE, _A_BAG = 400, 65_536  # bytes that the file takes beside the messages, at most


@dataclass(frozen=True)
class KeptPiece:
    """A piece on the disk: its folder, its bytes, its value 0..1, and when it begins."""

    path: Path
    size: int
    value: float
    start_ns: int


class PieceStore:
    """Writes pieces, and deletes the least valuable ones where they would exceed the budget; of equals the oldest.

    Use it as a context manager, from one thread at a time. Raises BagError: (on entering) Another recorder writes
    there, or the folder cannot be written to.

    `folder`: where pieces are; made where it is missing; `budget`: bytes that all pieces may take.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder, self.budget = folder, budget
        self._lock = -1
        self.kept: list[KeptPiece] = []  # what is there

    def __enter__(self) -> "PieceStore":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in self.folder.glob(f".*{_PART}"):
                if not part.is_symlink() and _description(part) == _UNFINISHED:
                    shutil.rmtree(part)
        except BlockingIOError:
            self.__exit__()
            what = "another recorder writes there"
            raise BagError(what, where=str(self.folder), cure="Name another folder, or end that one") from None
        except OSError as error:
            self.__exit__()
            what = f"cannot be written to: {error.strerror}"
            raise BagError(what, where=str(self.folder), cure="Name another folder") from error
        found = (_kept(path) for path in self.folder.iterdir() if path.is_dir() and not path.is_symlink())
        self.kept = [piece for piece in found if piece is not None]
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.size for piece in self.kept)

    def write(self, piece: RolledPiece) -> KeptPiece | None:
        """Keep a piece, in the place of less valuable ones where there is not enough room.

        Returns where it is; None where all that it would have to replace is worth more. Raises BagError where it alone
        exceeds the budget; OSError where the disk is full, or the folder is gone; nothing of the piece is left.
        """
        need = expected_size(piece.messages)
        if need > self.budget:
            raise self.too_small(need, (piece.stop_ns - piece.start_ns) / 1e9)
        if not self._make_room(need, piece.value):
            return None
        if shutil.disk_usage(self.folder).free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        path = self._free_name(piece)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PART, dir=self.folder))
        try:
            (part / DESCRIPTION).write_text(json.dumps(_UNFINISHED), encoding="utf-8")
            self._write(part / path.name, piece)
            (part / path.name).rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        kept = KeptPiece(path, _size_of(path), piece.value, piece.start_ns)
        self.kept.append(kept)
        return kept

    def too_small(self, need: float, seconds: float) -> BagError:
        """The error that not even one piece of so many bytes and seconds fits into the budget."""
        return BagError(
            f"a piece of {seconds:.1f} s takes {need / 1e6:.1f} MB, the budget is {self.budget / 1e6:.1f} MB",
            where="--budget",
            cure="Give a larger budget, or record less with --topics, --before, --after and --longest",
        )

    def _write(self, folder: Path, piece: RolledPiece) -> None:
        written: Counter[str] = Counter()
        with BagWriter(folder) as bag:
            for message in piece.messages:
                bag.write(message.topic, message.type, message.raw, message.stamp_ns, latched=message.latched)
                written[message.topic] += 1
        description = {
            "format": FORMAT,
            "start_ns": piece.start_ns,
            "stop_ns": piece.stop_ns,
            "value": piece.value,
            "whole": piece.whole,
            "moments": [
                {"arrived_ns": moment.arrived_ns, "stamp_ns": moment.stamp_ns, **asdict(moment.reason)}
                for moment in piece.moments
            ],
            "messages": dict(written),
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        for file in folder.iterdir():  # the new name must not reach the disk before what it names
            with file.open("rb") as opened:
                os.fsync(opened.fileno())

    def _make_room(self, need: int, value: float) -> bool:
        """Delete what is worth least until there is room for so many bytes; nothing where too much is worth more."""
        excess, doomed = self.size + need - self.budget, []
        for piece in sorted(self.kept, key=lambda piece: (piece.value, piece.start_ns)):
            if excess <= 0 or piece.value > value:
                break
            doomed.append(piece)
            excess -= piece.size
        if excess > 0:
            return False
        for piece in doomed:
            shutil.rmtree(piece.path, ignore_errors=True)  # somebody may have taken it away
            self.kept.remove(piece)
        return True

    def _free_name(self, piece: RolledPiece) -> Path:
        best = max(piece.moments, key=lambda moment: moment.reason.value)
        kind = "".join(letter if letter.isalnum() else "_" for letter in best.reason.name.lower())[:20]
        moment = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(piece.start_ns // 1_000_000_000))
        name = f"{moment}.{piece.start_ns // 1_000_000 % 1000:03d}Z_{kind}"
        paths = (self.folder / (f"{name}_{number}" if number else name) for number in range(1000))
        return next(path for path in paths if not path.exists())


def expected_size(messages: Sequence[RolledMessage]) -> int:
    """Bytes that a bag of some messages takes at most."""
    return sum(len(message.raw) + _A_MESSAGE for message in messages) + _A_BAG


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _description(folder: Path) -> dict[str, Any]:
    """What the JSON in a folder says; nothing where it is not a recorder's."""
    try:
        found = read_json(folder / DESCRIPTION, BagError, cure="Move it away", most_bytes=_LARGEST_DESCRIPTION)
    except BagError:
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def _kept(folder: Path) -> KeptPiece | None:
    """The piece in a folder; None where nothing says that it is one."""
    described = _description(folder)
    try:
        value = float(described["value"])
        return KeptPiece(folder, _size_of(folder), value, int(described["start_ns"])) if 0.0 <= value <= 1.0 else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
