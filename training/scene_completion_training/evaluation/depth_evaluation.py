"""Which frames of drives are scored by depth, as frame lists such as the Eigen split of KITTI name them.

The LiDAR of a frame is projected into the left camera. Scores are means over frames of the errors of each frame, see
`scene_completion_ros.evaluation.depth`. Published evaluations differ in details. They render 192 x 640 rays and enlarge
the image, where here every counted pixel has its own ray. They place the LiDAR one pixel further left and up than it
projects. The Eigen ground truth of Monodepth2 is the distance along the LiDAR's x axis. That is 0.27 m more than the
depth in the camera's frame, which counts here as it does for Behind the Scenes. Models that encode several views take
further frames of the drive, listed or not: unpack whole drives for them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.sequences.frame_lists import (
    SIDES,
    ListedFrame,
    SplitCount,
    drive_name,
    frame_indices,
    frames_of_drive,
)
from scene_completion_ros.sequences.posed_sequence import PosedSequence

LEFT = SIDES[0]
NO_DRIVE, NO_FRAME, RIGHT_ONLY = "drive not given", "not in the drive", "listed for the right camera alone"
NO_SCAN = "no LiDAR scan"


@dataclass(frozen=True, order=True)
class LeftOutFrame:
    """A frame that was asked for and is not scored."""

    reason: str  # why, in words
    drive: str  # name of its drive, without a date in front
    frame: int  # number of its image file


@dataclass(frozen=True, eq=False)
class Selection:
    """Frames of one drive that are to be scored."""

    sequence: PosedSequence
    numbers: Mapping[int, int]  # index of a frame in the sequence -> number of its image file


def select_frames(
    sequences: Sequence[PosedSequence], listed: Sequence[ListedFrame] | None = None
) -> tuple[list[Selection], list[LeftOutFrame]]:
    """Choose what is scored: all frames with a scan, or those of them that a frame list names.

    Returns the frames of each drive that has any, and all others that were asked for. Raises SequenceError where no
    frame is left. `listed`: a frame list, whose numbers are those of the image files.
    """
    names = [drive_name(sequence.name) for sequence in sequences]
    left_out = _frames_elsewhere(listed or (), names)
    selections = []
    for name, sequence in zip(names, sequences, strict=True):
        indices = frame_indices(sequence)
        wanted = dict.fromkeys(indices, SIDES) if listed is None else frames_of_drive(listed, name)
        found = {number: _obstacle(sequence, indices.get(number), sides) for number, sides in wanted.items()}
        left_out += [LeftOutFrame(reason, name, number) for number, reason in found.items() if reason]
        if numbers := {indices[number]: number for number, reason in found.items() if not reason}:
            selections.append(Selection(sequence, numbers))
    if not selections:
        raise _nothing_left(names, left_out)
    return selections, left_out


def scored_share(
    path: Path, listed: Sequence[ListedFrame], left_out: Iterable[LeftOutFrame], *, allow_missing: bool
) -> SplitCount:
    """How many of the listed frames of left cameras are scored.

    Raises SequenceError where some are missing, and that is not allowed.
    """
    wanted = len({(drive_name(line.drive), line.frame) for line in listed if line.side == LEFT})
    missing = [frame for frame in left_out if frame.reason != RIGHT_ONLY]
    if missing and not allow_missing:
        first = ", ".join(f"{frame.drive} {frame.frame} ({frame.reason})" for frame in missing[:5])
        what = f"{len(missing)} of its frames cannot be scored, such as {first}"
        cure = "Unpack their images and LiDAR scans, or go on without: --allow-missing"
        raise SequenceError(what, where=str(path), cure=cure)
    return SplitCount(path.name, wanted, wanted - len(missing))


def left_out_table(left_out: Iterable[LeftOutFrame]) -> str:
    """The numbers of sorted frames by reason and drive."""
    rows = []
    for (reason, drive), group in groupby(left_out, key=lambda frame: (frame.reason, frame.drive)):
        numbers = [str(frame.frame) for frame in group]
        rows.append([reason, drive, str(len(numbers)), ", ".join(numbers)])
    return table(["reason", "drive", "frames", "numbers"], rows)


def _frames_elsewhere(listed: Iterable[ListedFrame], drives: Collection[str]) -> list[LeftOutFrame]:
    """The listed frames of other drives than these, each once."""
    found = {(drive_name(name), number) for name, number, _ in listed}
    return [LeftOutFrame(NO_DRIVE, drive, number) for drive, number in sorted(found) if drive not in drives]


def _obstacle(sequence: PosedSequence, index: int | None, sides: Sequence[str]) -> str:
    """Why a frame cannot be scored; empty where it can."""
    if LEFT not in sides:
        return RIGHT_ONLY
    if index is None:
        return NO_FRAME
    return "" if "lidar" in sequence.frames[index].assets else NO_SCAN


def _nothing_left(recordings: Iterable[str], left_out: Sequence[LeftOutFrame]) -> SequenceError:
    reasons = [frame.reason for frame in left_out]
    counts = "; ".join(f"{reason}: {reasons.count(reason)}" for reason in sorted(set(reasons)))
    return SequenceError(
        f"none of {len(reasons)} frames can be scored ({counts})",
        where=", ".join(recordings),
        cure="Name the listed drives with images and LiDAR scans unpacked, or another frame list",
    )
