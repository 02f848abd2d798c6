"""The frame lists that published splits of KITTI and KITTI-360 consist of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.kitti import text_lines

SIDES = ("l", "r")


class ListedFrame(NamedTuple):
    """One line of a frame list.

    Attributes:
        drive: Drive as the list writes it: `2013_05_28_drive_0000_sync`, or with its date in front for KITTI raw
            (`2011_09_26/2011_09_26_drive_0001_sync`).
        frame: Number of the image file.
        side: "l" or "r", the camera of the pair that is meant.
    """

    drive: str
    frame: int
    side: str


def read_frame_list(path: Path | str) -> list[ListedFrame]:
    """Read a list of `drive frame side` lines, the form of the published KITTI raw and KITTI-360 splits.

    Raises:
        SequenceError: The file is missing, empty, or a line is of another form: names the line.
    """
    path = Path(path)
    listed = []
    for number, line in enumerate(text_lines(path, "frame list"), start=1):
        words = line.split()
        if len(words) != 3 or not words[1].isdigit() or words[2] not in SIDES:
            raise SequenceError(
                f"not `drive frame side`: {line[:80]!r}",
                where=f"{path}, line {number}",
                cure="Expected a line like `2013_05_28_drive_0000_sync 0000000386 l`",
            )
        listed.append(ListedFrame(words[0], int(words[1]), words[2]))
    if not listed:
        raise SequenceError("frame list is empty", where=str(path), cure="Name another list")
    return listed


def frames_of_drive(listed: Iterable[ListedFrame], drive: str) -> dict[int, tuple[str, ...]]:
    """Frame number -> listed sides ("l" before "r") of one drive.

    Args:
        drive: Name of the drive's folder; a date in front of the listed name is ignored.
    """
    sides: dict[int, set[str]] = {}
    for name, frame, side in listed:
        if name.rpartition("/")[2] == drive:
            sides.setdefault(frame, set()).add(side)
    return {frame: tuple(sorted(found)) for frame, found in sorted(sides.items())}
