"""Depth of density models against the LiDAR of drives, as the Eigen split of KITTI is evaluated.

The LiDAR of a frame is projected into the left camera. Its pixels inside the Garg crop and 1e-3 to 80 m away count, and
nothing is scaled. Scores are means over frames of the errors of each frame, see
`scene_completion_ros.evaluation.depth`. Published evaluations differ in details. They render 192 x 640 rays and enlarge
the image, where here every counted pixel has its own ray. They place the LiDAR one pixel further left and up than it
projects. The Eigen ground truth of Monodepth2 is the distance along the LiDAR's x axis. That is 0.27 m more than the
depth in the camera's frame, which counts here as it does for Behind the Scenes.

Models that encode several views take further frames of the drive, listed or not: unpack whole drives for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.baselines import MeanDepth
from scene_completion_ros.evaluation.depth import DepthErrors, DepthMetric, garg_crop
from scene_completion_ros.sequences.frame_lists import SIDES, ListedFrame, frames_of_drive
from scene_completion_ros.sequences.opening import lidar_depth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_training.evaluation.density_model import DensityModel, Observation
from scene_completion_training.evaluation.tables import table

MINIMUM, MAXIMUM = 1e-3, 80.0
"""Depths that count, metres."""
LEFT = SIDES[0]
MEAN_DEPTH = "mean depth"
NO_DRIVE, NO_FRAME, RIGHT_ONLY = "drive not given", "not in the drive", "listed for the right camera alone"
NO_SCAN, NO_PIXEL = "no LiDAR scan", "no LiDAR inside the crop"

CAPTION = (
    "Depth against the LiDAR of each frame in its left camera: Garg crop, 1e-3 to 80 m, mean over frames. Only the "
    "last column scales each frame by its median."
)
CAPTION_MEAN = "The mean depth is that of each pixel over the LiDAR of other drives."
CAPTION_LEFT_OUT = "Frames that are left out: {left_out} of {all}."


@dataclass(frozen=True, order=True)
class LeftOutFrame:
    """A frame that was asked for and is not scored.

    Attributes:
        reason: Why, in words.
        drive: Name of its drive, without a date in front.
        frame: Number of its image file.
    """

    reason: str
    drive: str
    frame: int


@dataclass(frozen=True, eq=False)
class Selection:
    """Frames of one drive that are to be scored.

    Attributes:
        sequence: The drive, with all its frames.
        numbers: Index of a frame in the sequence -> number of its image file.
    """

    sequence: PosedSequence
    numbers: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class DepthResult:
    """All scores of a run.

    Attributes:
        frames: Scored frames, the same ones for every method.
        pixels: Pixels with LiDAR that count, over all frames.
        errors: Method -> mean over frames.
        left_out: What was asked for and is not scored, sorted.
    """

    recordings: tuple[str, ...]
    frames: int
    pixels: int
    errors: Mapping[str, DepthErrors]
    left_out: tuple[LeftOutFrame, ...]


def select_frames(
    sequences: Sequence[PosedSequence], listed: Sequence[ListedFrame] | None = None
) -> tuple[list[Selection], list[LeftOutFrame]]:
    """Choose what is scored: all frames with a scan, or those of them that a frame list names.

    Args:
        listed: A frame list, whose numbers are those of the image files.

    Returns:
        The frames of each drive that has any, and all others that were asked for.

    Raises:
        SequenceError: No frame is left.
    """
    names = [_drive_name(sequence.name) for sequence in sequences]
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


def frame_indices(sequence: PosedSequence) -> dict[int, int]:
    """Number of the reference camera's image file -> index, of all frames that have one.

    Images without a numbered file count by their index.
    """
    name = reference_camera(sequence)
    sources = {index: frame.images[name] for index, frame in enumerate(sequence.frames) if name in frame.images}
    return {
        int(source.stem) if isinstance(source, Path) and source.stem.isdigit() else index: index
        for index, source in sources.items()
    }


def scanned_depth(sequence: PosedSequence, index: int) -> NDArray[np.float32]:
    """LiDAR of a frame as z-depth [H, W] of the reference camera, metres, 0 where no point fell.

    Raises:
        SequenceError: The frame has no scan.
    """
    depth = lidar_depth(sequence, index)
    if depth is None:
        raise SequenceError(NO_SCAN, where=f"{sequence.name}, frame {index}", cure="Restore the scan")
    return depth


def counted_depth(measured: NDArray[np.float32]) -> NDArray[np.float32]:
    """The depth image [H, W], metres, with 0 for all pixels that do not count."""
    counted = (measured > MINIMUM) & (measured < MAXIMUM) & garg_crop(*measured.shape)
    return np.where(counted, measured, np.float32(0.0))


def predicted_depth(observation: Observation, truth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Expected z-depth [H, W] where the true depth [H, W] is not 0; 0 elsewhere; metres."""
    row, column = np.nonzero(truth)
    depth = np.zeros_like(truth)
    depth[row, column] = observation.depth(np.stack([column, row], axis=-1).astype(np.float64))
    return depth


def fit_mean_depth(sequences: Iterable[PosedSequence]) -> NDArray[np.float32]:
    """Mean LiDAR depth of each pixel over all scans of drives, on the normalised image grid: float32 [h, w], metres.

    Raises:
        SequenceError: No frame has a scan.
    """
    mean, names = MeanDepth(), []
    for sequence in sequences:
        names.append(sequence.name)
        for index in (index for index, frame in enumerate(sequence.frames) if "lidar" in frame.assets):
            mean.update(scanned_depth(sequence, index))
    if not mean.counts.any():
        raise SequenceError("no LiDAR in the image", where=", ".join(names), cure="Name drives with LiDAR scans")
    return mean.compute()


def evaluate_depth(
    selections: Sequence[Selection],
    models: Sequence[DensityModel],
    mean: NDArray[np.float32] | None = None,
    left_out: Iterable[LeftOutFrame] = (),
) -> DepthResult:
    """Score models, and the mean depth where it is given.

    Args:
        mean: Mean depth of other drives [h, w], metres, from `fit_mean_depth`.

    Raises:
        SequenceError: No frame has LiDAR that counts.
    """
    methods = [model.name for model in models] + ([] if mean is None else [MEAN_DEPTH])
    metrics = {name: DepthMetric(minimum=MINIMUM, maximum=MAXIMUM) for name in methods}
    frames, pixels, missed = 0, 0, list(left_out)
    chosen = [(selection.sequence, *pair) for selection in selections for pair in selection.numbers.items()]
    for sequence, index, number in chosen:
        truth = counted_depth(scanned_depth(sequence, index))
        if not truth.any():
            missed.append(LeftOutFrame(NO_PIXEL, _drive_name(sequence.name), number))
            continue
        frames, pixels = frames + 1, pixels + int(np.count_nonzero(truth))
        for model in models:
            metrics[model.name].update(predicted_depth(model.observe(sequence, index), truth), truth)
        if mean is not None:
            metrics[MEAN_DEPTH].update(mean, truth)
    names = tuple(selection.sequence.name for selection in selections)
    if not frames:
        raise _nothing_left(names, missed)
    errors = {name: metric.compute() for name, metric in metrics.items()}
    return DepthResult(names, frames, pixels, errors, tuple(sorted(missed)))


def markdown(result: DepthResult) -> str:
    """The scores and what was left out, with captions."""
    caption = f"{CAPTION} {CAPTION_MEAN}" if MEAN_DEPTH in result.errors else CAPTION
    rows = [
        [name, str(result.frames), str(result.pixels), *(f"{value:.3f}" for value in asdict(errors).values())]
        for name, errors in result.errors.items()
    ]
    header = ["method", "frames", "pixels", *(field.name for field in fields(DepthErrors))]
    parts = [f"Recordings: {', '.join(result.recordings)}.", caption, table(header, rows)]
    if result.left_out:
        count = len(result.left_out)
        parts += [CAPTION_LEFT_OUT.format(left_out=count, all=count + result.frames), left_out_table(result.left_out)]
    return "\n\n".join(parts) + "\n"


def left_out_table(left_out: Iterable[LeftOutFrame]) -> str:
    """The numbers of sorted frames by reason and drive."""
    rows = []
    for (reason, drive), group in groupby(left_out, key=lambda frame: (frame.reason, frame.drive)):
        numbers = [str(frame.frame) for frame in group]
        rows.append([reason, drive, str(len(numbers)), ", ".join(numbers)])
    return table(["reason", "drive", "frames", "numbers"], rows)


def as_json(result: DepthResult, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All scores as plain values."""
    return {
        "settings": dict(settings),
        "protocol": {"crop": "Garg", "minimum_m": MINIMUM, "maximum_m": MAXIMUM, "scaling": None, "side": LEFT},
        "recordings": list(result.recordings),
        "frames": result.frames,
        "pixels": result.pixels,
        "depth": {name: asdict(errors) for name, errors in result.errors.items()},
        "left_out": [asdict(frame) for frame in result.left_out],
    }


def _frames_elsewhere(listed: Iterable[ListedFrame], drives: Collection[str]) -> list[LeftOutFrame]:
    """The listed frames of other drives than these, each once."""
    found = {(_drive_name(name), number) for name, number, _ in listed}
    return [LeftOutFrame(NO_DRIVE, drive, number) for drive, number in sorted(found) if drive not in drives]


def _obstacle(sequence: PosedSequence, index: int | None, sides: Sequence[str]) -> str:
    """Why a frame cannot be scored; empty where it can."""
    if LEFT not in sides:
        return RIGHT_ONLY
    if index is None:
        return NO_FRAME
    return "" if "lidar" in sequence.frames[index].assets else NO_SCAN


def _drive_name(name: str) -> str:
    """The last part of a name, without the date or folder in front."""
    return name.rpartition("/")[2]


def _nothing_left(recordings: Iterable[str], left_out: Sequence[LeftOutFrame]) -> SequenceError:
    reasons = [frame.reason for frame in left_out]
    counts = "; ".join(f"{reason}: {reasons.count(reason)}" for reason in sorted(set(reasons)))
    return SequenceError(
        f"none of {len(reasons)} frames can be scored ({counts})",
        where=", ".join(recordings),
        cure="Name the listed drives with images and LiDAR scans unpacked, or another frame list",
    )
