"""The last seconds of serialised messages, and pieces of them around moments that are worth keeping, within a budget.

A piece is a bag with a JSON in it that says why it is there. It is written in a hidden folder, and gets its name when
it is whole. Only folders with such a JSON are counted, and only they are deleted. A hidden folder has a JSON as well,
from its beginning: the next recorder knows it by that.
"""

import errno
import fcntl
import json
import os
import shutil
import struct
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scene_completion_ros.bags.reader import CAMERA_INFO_TYPE, IMAGE_TYPES
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError
from scene_completion_ros.messages.drop_reasons import RecordReason
from scene_completion_ros.untrusted_files import read_json

MOST_REASONS = 100  # reasons that a piece remembers
_MOST_STANDING = 100  # latched messages of a topic: as many publishers may have one each


class RolledMessage(NamedTuple):
    """A message as it arrived: when, in nanoseconds; serialised (CDR); whether its topic is latched."""

    stamp_ns: int
    topic: str
    type: str
    raw: bytes
    latched: bool = False


class Moment(NamedTuple):
    """A reason to record, when it arrived, and the stamp of the image that it is about; 0 where it says none."""

    arrived_ns: int
    reason: RecordReason
    stamp_ns: int = 0


@dataclass(frozen=True, eq=False)
class RolledPiece:
    """What is to be kept."""

    start_ns: int  # first time of arrival
    stop_ns: int  # last one
    moments: tuple[Moment, ...]  # at least one
    # In the order of arrival. What holds from before (latched messages, calibration) comes first, with the time of the
    # start.
    messages: tuple[RolledMessage, ...]
    whole: bool  # nothing of the time around the moments is missing

    @property
    def value(self) -> float:
        """That of the best reason, 0..1."""
        return max(moment.reason.value for moment in self.moments)


@dataclass
class _Open:
    start_ns: int
    end_ns: int
    moments: list[Moment] = field(default_factory=list)


class RollingMemory:
    """Remembers the last seconds of messages, longer around moments; times are of one clock that never goes back.

    A piece reaches from some seconds before its first moment to some after its last one: moments whose pieces would
    overlap share one. It is ready when no moment can join it any more, or once it is as long, or as large, as allowed.
    `before_ns`: time before a moment; `after_ns`: time after it; `longest_ns`: length from which a piece is cut; what
    follows becomes another one; `most_bytes`: bytes of messages that are remembered at most; beyond them the oldest are
    forgotten.
    """

    def __init__(self, before_ns: int, after_ns: int, longest_ns: int, most_bytes: int) -> None:
        self._before_ns, self._after_ns, self._longest_ns = before_ns, after_ns, longest_ns
        self._most_bytes = most_bytes
        self._messages: deque[RolledMessage] = deque()
        self._standing: dict[str, dict[bytes, RolledMessage]] = {}
        self._open: _Open | None = None
        self._lost = False
        self.size = 0  # bytes of the messages that are remembered
        self.shortened = 0  # messages that were forgotten too early, as there were too many bytes

    @property
    def span_ns(self) -> int:
        """Time between the first and the last message that are remembered."""
        return self._messages[-1].stamp_ns - self._messages[0].stamp_ns if self._messages else 0

    def add(self, message: RolledMessage) -> None:
        """Remember a message that has just arrived, and forget what no piece can need any more."""
        self._messages.append(message)
        self.size += len(message.raw)
        oldest_ns = message.stamp_ns - self._before_ns
        self._forget_before(oldest_ns if self._open is None else min(self._open.start_ns, oldest_ns))
        while self.size > self._most_bytes and len(self._messages) > 1:
            self._lost = True
            self.shortened += 1
            self._forget_first()

    def mark(self, moment: Moment) -> None:
        """A moment is worth keeping: that at which the image of its stamp arrived, or else the reason itself."""
        moment_ns = self._arrival_of(moment.stamp_ns) or moment.arrived_ns
        end_ns = moment_ns + self._after_ns
        if self._open is None:
            start_ns = moment_ns - self._before_ns
            first_ns = self._messages[0].stamp_ns if self._messages else moment_ns
            self._lost = self._lost and first_ns > start_ns
            self._open = _Open(max(start_ns, min(first_ns, moment_ns)), end_ns)
        self._open.end_ns = max(self._open.end_ns, end_ns)
        if len(self._open.moments) < MOST_REASONS:
            self._open.moments.append(moment)

    def ready(self, now_ns: int) -> RolledPiece | None:
        """Hand over the piece that is ready, which is then forgotten here."""
        piece = self._open
        if piece is None:
            return None
        if now_ns >= piece.end_ns + self._before_ns:
            return self._take(piece, piece.end_ns)
        if now_ns - piece.start_ns >= self._longest_ns or self.size >= 0.9 * self._most_bytes:
            return self._take(piece, min(now_ns, piece.end_ns))
        return None

    def rest(self, now_ns: int) -> RolledPiece | None:
        """Hand over what there is of a piece, ready or not: nothing more will come."""
        piece = self._open
        return None if piece is None else self._take(piece, min(now_ns, piece.end_ns))

    def _arrival_of(self, stamp_ns: int) -> int:
        """When the image of a stamp arrived, which the node may have needed seconds for; 0 where it is not there."""
        images = (message for message in reversed(self._messages) if message.type in IMAGE_TYPES)
        return next((image.stamp_ns for image in images if stamp_ns and _header_stamp(image.raw) == stamp_ns), 0)

    def _take(self, piece: _Open, stop_ns: int) -> RolledPiece:
        self._forget_before(piece.start_ns)
        messages = [
            held._replace(stamp_ns=piece.start_ns) for standing in self._standing.values() for held in standing.values()
        ]
        messages += [message for message in self._messages if message.stamp_ns <= stop_ns]
        self._forget_before(stop_ns + 1)
        whole, self._lost = not self._lost, False
        follows = piece.end_ns > stop_ns
        self._open = _Open(stop_ns, piece.end_ns, piece.moments[-1:]) if follows else None
        return RolledPiece(piece.start_ns, stop_ns, tuple(piece.moments), tuple(messages), whole)

    def _forget_before(self, time_ns: int) -> None:
        while self._messages and self._messages[0].stamp_ns < time_ns:
            self._forget_first()

    def _forget_first(self) -> None:
        """Forget a message, unless it holds on: then every later piece begins with it."""
        message = self._messages.popleft()
        self.size -= len(message.raw)
        if message.latched:
            standing = self._standing.setdefault(message.topic, {})
            standing.pop(message.raw, None)
            standing[message.raw] = message
            if len(standing) > _MOST_STANDING:
                del standing[next(iter(standing))]
        elif message.type == CAMERA_INFO_TYPE:
            self._standing[message.topic] = {b"": message}


def _header_stamp(raw: bytes) -> int:
    """The stamp of a serialised message that begins with a header, nanoseconds; 0 where it is too short."""
    if len(raw) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


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
    there, or the folder cannot be written to. `folder`: where pieces are; made where it is missing; `budget`: bytes
    that all pieces may take.
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
    try:
        found = read_json(folder / DESCRIPTION, BagError, cure="Move it away", most_bytes=_LARGEST_DESCRIPTION)
    except BagError:
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def _kept(folder: Path) -> KeptPiece | None:
    described = _description(folder)
    try:
        value = float(described["value"])
        return KeptPiece(folder, _size_of(folder), value, int(described["start_ns"])) if 0.0 <= value <= 1.0 else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
