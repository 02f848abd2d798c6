"""Drives into what a student learns from, what it is calibrated on, and what it is scored on: by place and time."""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import ImprovementError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import cameras_ahead
from scene_completion_training.arrays import Doubles, Ints
from scene_completion_training.data.drawn_views import metres_travelled
from scene_completion_training.improvement.steps import UNFINISHED

PARTS = ("training", "calibration", "held_out")
SHARES = (0.6, 0.2, 0.2)  # of the distance of a drive that is cut, gaps not counted
CALIBRATING = 5  # of so many replayed drives, one calibrates
LEAST_FRAMES = 4  # frames of a part


@dataclass(frozen=True)
class Split:
    """Folders of posed sequences."""

    training: list[Path]  # what the student learns from
    calibration: list[Path]  # what its probabilities and its threshold are fitted to
    held_out: list[Path]  # what old and new student are compared on


def split_drives(
    drives: Sequence[Path], named: Sequence[Path], gap: float, folder: Path, *, turning: float = 0.0
) -> Split:
    """Splits drives; what is scored and calibrated on comes last in time.

    Three drives or more stay whole: the last is held out, the one before calibrates. Of fewer, each is cut into three
    parts along its way. Between parts a gap stays unused. A drive may return to a place: frames of an earlier part that
    come nearer than the gap to a later one stay unused too. Raises ImprovementError where the drives are too short.

    Args:
        drives: Folders of posed sequences.
        named: Folders that the user holds out; none to choose by time.
        gap: Metres between parts: as far as a frame looks ahead.
        folder: Where parts of drives are written, anew.
        turning: As `places_of` has it.
    """
    if folder.exists():
        shutil.rmtree(folder)
    ordered = sorted(drives, key=lambda drive: PosedSequence.load(drive).frames[0].stamp_ns)
    if named and len(ordered) > 1:
        return Split(ordered[:-1], ordered[-1:], list(named))
    if not named and len(ordered) > 2:
        return Split(ordered[:-2], ordered[-2:-1], ordered[-1:])
    shares = SHARES[:2] if named else SHARES
    parts: dict[str, list[Path]] = {name: [] for name in PARTS}
    short = []
    for number, drive in enumerate(ordered):
        sequence = PosedSequence.load(drive)
        cuts = cut_along(places_of(sequence, turning), shares, gap)
        if min(len(cut) for cut in cuts) < LEAST_FRAMES:
            short.append(f"{sequence.name} ({sequence.travelled_distance():.0f} m)")
            continue
        for name, cut in zip(PARTS, cuts, strict=False):
            parts[name].append(_written(sequence, cut, folder / f"{number:02d}_{name}"))
    if not parts["training"]:
        what = f"too short to be split into {len(shares)} parts with gaps of {gap:.2g} m: {', '.join(short)}"
        cure = "Give three drives or more, or longer ones, or name a held-out drive with --held-out"
        raise ImprovementError(what, where="recordings", cure=cure)
    return Split(parts["training"], parts["calibration"], list(named) or parts["held_out"])


def split_replay(replay: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Earlier drives to learn from again, and those that calibrate beside the new ones.

    Every fifth calibrates, and of two at least one: fitted on new drives alone, a place prior is believed too much on
    old ones.
    """
    count = -(-len(replay) // CALIBRATING) if len(replay) > 1 else 0
    chosen = [replay[int(index)] for index in np.linspace(0, len(replay) - 1, count + 1)[1:].round()]
    return [folder for folder in replay if folder not in chosen], chosen


def cut_along(places: Doubles, shares: Sequence[float], gap: float) -> list[Ints]:
    """Frames of each part of a drive, of `places_of` it, by the share of the way of each; gaps are metres."""
    travelled = metres_travelled(places)
    usable = travelled[-1] - gap * (len(shares) - 1)
    parts: list[Ints] = []
    begin = 0.0
    for share in shares:
        end = begin + share / sum(shares) * usable
        parts.append(np.flatnonzero((travelled >= begin) & (travelled <= end + 1e-6)))
        begin = end + gap
    for number, part in enumerate(parts):
        later = np.concatenate([*parts[number + 1 :], np.zeros(0, np.int64)])
        if part.size and later.size:
            distance = np.linalg.norm(places[part][:, None] - places[later][None], axis=-1).min(axis=1)
            parts[number] = part[distance >= gap - 1e-6]
    return parts


def metres_of_a_turn(bundle: StudentBundle) -> float:
    """What a turn of the camera by a radian counts as, metres: one by its field of view shows another volume.

    Nothing where the student is not told how its camera stands: a car turns where it drives.
    """
    return reach_of(bundle) / bundle.canonical.horizontal_fov if bundle.takes_pose else 0.0


def reach_of(bundle: StudentBundle) -> float:
    """How far ahead a student looks, metres."""
    return bundle.grid.shape[0] * bundle.grid.voxel_size


def places_of(sequence: PosedSequence, turning: float = 0.0) -> Doubles:
    """Positions of the rig in its frames [N, 3], metres, frame of the world; with turns also directions, [N, 6].

    `turning`: metres that a turn by a radian counts as; the direction that the camera looks in is as long.
    """
    places = np.stack([frame.world_from_rig.translation for frame in sequence.frames])
    if not turning:
        return places
    camera = cameras_ahead(sequence)[0]
    axes = [sequence.world_from_camera(index, camera).rotation[:, 2] for index in range(len(sequence))]
    return np.concatenate([places, turning * np.stack(axes)], axis=1)


def _written(sequence: PosedSequence, frames: Ints, folder: Path) -> Path:
    """A part of a drive as a folder of its own, whole or not there."""
    name = f"{sequence.name}/{folder.name}"
    part = dataclasses.replace(sequence, name=name, frames=[sequence.frames[index] for index in frames])
    unfinished = folder.with_name(folder.name + UNFINISHED)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    part.save(unfinished)
    return unfinished.rename(folder)
