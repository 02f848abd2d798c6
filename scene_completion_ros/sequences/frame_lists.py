"""The frame lists that published splits consist of, and which frames of recordings they name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.posed_sequence import PosedSequence, cameras_ahead, read_lines, reference_camera

SIDES = ("l", "r")
# Provenance of a sequence whose images are not called by the numbers that lists have: the number of each frame.
FRAME_NUMBERS = "frame_numbers"
# Provenance of unrelated frames of several drives: the name of the drive of each frame.
DRIVES = "drives"
_SHOWN = 5  # of the frames that are missing


class ListedFrame(NamedTuple):
    """One line of a frame list."""

    # Drive as the list writes it: `2013_05_28_drive_0000_sync`, or with its date in front for KITTI raw
    # (`2011_09_26/2011_09_26_drive_0001_sync`).
    drive: str
    frame: int  # number of the image file
    side: str  # "l" or "r", the camera of the pair that is meant


def read_frame_list(path: Path | str) -> list[ListedFrame]:
    """Read a list of `drive frame side` lines, the form of the published splits of KITTI raw and KITTI-360.

    Where no line has a side (RealEstate10K) it is the left one. Raises SequenceError where the file is missing, empty,
    or a line is of another form: names the line.
    """
    path, kind = Path(path), "line `drive frame side`"
    columns = 3 if any(len(words) == 3 for words in read_lines(path, kind, str.split)) else 2

    def read(line: str) -> ListedFrame:
        words = line.split()
        side = words[2] if len(words) == 3 else SIDES[0]
        if len(words) != columns or not words[1].isdigit() or side not in SIDES:
            raise ValueError(f"{columns} words, the second a number")
        return ListedFrame(words[0], int(words[1]), side)

    return read_lines(path, kind, read, "Expected a line like `2013_05_28_drive_0000_sync 0000000386 l`")


def drive_name(name: str) -> str:
    """The last part of the name of a drive or sequence, without a date or folder in front."""
    return name.rpartition("/")[2]


def frame_indices(sequence: PosedSequence) -> dict[int, int]:
    """Number of the reference camera's image file -> index, of all frames that have one.

    Where the provenance has `FRAME_NUMBERS`, these count. Images without a numbered file count by their index.
    """
    given = sequence.provenance.get(FRAME_NUMBERS)
    if isinstance(given, list) and len(given) == len(sequence) and all(isinstance(number, int) for number in given):
        return {number: index for index, number in enumerate(given)}
    name = reference_camera(sequence)
    sources = {index: frame.images[name] for index, frame in enumerate(sequence.frames) if name in frame.images}
    return {
        int(source.stem) if isinstance(source, Path) and source.stem.isdigit() else index: index
        for index, source in sources.items()
    }


def part_of_recording(
    sequence: PosedSequence,
    *,
    drives: Sequence[str] = (),  # drives whose frames are taken; all if none is named
    without_drives: Sequence[str] = (),  # drives whose frames are left out
    first: float = 0.0,  # where the part begins and ends, as shares of the frames that are left
    last: float = 1.0,
) -> PosedSequence:
    """A part of a recording. Raises SequenceError where it lacks a drive that is named, or no frame is left."""
    drive_of = sequence.provenance.get(DRIVES, [])
    if unknown := {*drives, *without_drives} - {*drive_of}:
        what = f"has no frame of {_some(sorted(unknown))}, but of {', '.join(sorted({*drive_of})) or 'no named drive'}"
        raise SequenceError(what, where=sequence.name, cure="Name drives as source.txt does")
    indices = [
        index
        for index in range(len(sequence))
        if not drive_of or ((not drives or drive_of[index] in drives) and drive_of[index] not in without_drives)
    ]
    indices = indices[round(first * len(indices)) : round(last * len(indices))]
    if not indices:
        raise SequenceError("no frame is left", where=sequence.name, cure="Take more drives, or a larger part")
    lists = {key: sequence.provenance[key] for key in (DRIVES, FRAME_NUMBERS) if key in sequence.provenance}
    kept = {key: [values[index] for index in indices] for key, values in lists.items()}
    frames = [sequence.frames[index] for index in indices]
    return replace(sequence, frames=frames, provenance=sequence.provenance | kept)


@dataclass(frozen=True)
class SplitCount:
    """How much of a frame list was found, to be kept with the scores."""

    list: str
    listed: int
    used: int

    def __str__(self) -> str:
        return f"{self.list}: {self.used} of {self.listed} listed frames"


class FrameSplit:
    """A frame list, and what recordings hold of it. Raises SequenceError: see `read_frame_list`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._listed: dict[str, list[ListedFrame]] = {}
        for line in read_frame_list(self.path):
            self._listed.setdefault(drive_name(line.drive), []).append(line)
        self._open = dict(self._listed)
        self._missing: list[ListedFrame] = []
        self._opened: list[str] = []

    def names(self, drive: str) -> bool:
        """Whether it lists frames of a drive, by the name of its folder."""
        return drive_name(drive) in self._listed

    def of(self, sequence: PosedSequence) -> list[tuple[int, str]]:
        """Index and side of the listed frames that a recording holds, as the list orders them."""
        return self.of_drive(sequence.name, frame_indices(sequence), SIDES[: len(cameras_ahead(sequence))])

    def of_drive(self, drive: str, indices: Mapping[int, int], sides: Sequence[str] = SIDES) -> list[tuple[int, str]]:
        """The same of a drive, by its name, the index of each number that it holds, and the sides that it has."""
        name = drive_name(drive)
        self._opened.append(name)
        listed = self._open.pop(name, [])
        there = [line.frame in indices and line.side in sides for line in listed]
        self._missing += [line for line, found in zip(listed, there, strict=True) if not found]
        return [(indices[line.frame], line.side) for line, found in zip(listed, there, strict=True) if found]

    def counted(self, *, allow_missing: bool = False) -> SplitCount:
        """What all recordings had of it. Raises SequenceError where frames are missing and may not, or all are."""
        missing = [*self._missing, *(line for lines in self._open.values() for line in lines)]
        listed = sum(map(len, self._listed.values()))
        if len(missing) == listed:
            drives, there = _some(sorted(self._listed)), _some(sorted(set(self._opened))) or "none of these"
            what = f"none of its {listed} frames is there; it lists {drives}, and the recordings are {there}"
            cure = "Name the list of this data set, or unpack the drives that it lists"
            raise SequenceError(what, where=str(self.path), cure=cure)
        if missing and not allow_missing:
            frames = _some([f"{line.drive} {line.frame} {line.side}" for line in missing])
            what = f"{len(missing)} of its {listed} frames are not in the recordings, such as {frames}"
            cure = "Unpack them (a frame needs images, and a pose or labels), or go on without: "
            cure += "--allow-missing, or data.allow_missing=true in training"
            raise SequenceError(what, where=str(self.path), cure=cure)
        return SplitCount(self.path.name, listed, listed - len(missing))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
