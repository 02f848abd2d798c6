"""One evaluation of occupancy: models and controls over the frames of recordings, under every protocol they allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.invisible_empty import InvisibleEmptyResult
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.kitti_360 import kitti_360
from scene_completion_ros.sequences.posed_sequence import INDEX_NAME, PosedSequence
from scene_completion_training.evaluation.density_model import DensityModel, Observation
from scene_completion_training.evaluation.exact_evaluation import CalibrationFit, ExactEvaluation, ExactResult
from scene_completion_training.evaluation.lidar_evaluation import (
    LIDAR,
    LidarEvaluation,
    Setting,
    camera_pitch,
    level_scans,
)
from scene_completion_training.evaluation.voxel_truth import VoxelTruth, voxel_truth

Observed = list[tuple[DensityModel, Observation]]
KITTI_360_IMAGES = "data_2d_raw"

FrameHook = Callable[[PosedSequence, int, VoxelTruth | None, Observed], None]


@dataclass(frozen=True)
class RunSettings:
    """What is evaluated of a recording.

    Attributes:
        scans: Scans N that the LiDAR protocols accumulate.
        every: Frames between evaluated ones.
        pitch: How far the reference camera looks down, radians; None for what is known of the data set.
    """

    scans: int = 20
    every: int = 5
    pitch: float | None = None


@dataclass(frozen=True, eq=False)
class OccupancyResult:
    """All scores of a run.

    Attributes:
        recordings: Names of what was evaluated.
        exact: Against ground truth voxels; None where no frame has any.
        lidar: Under the LiDAR protocols: (setting, model, rule) -> scores; empty without LiDAR.
    """

    recordings: tuple[str, ...]
    exact: ExactResult | None
    lidar: dict[tuple[Setting, str, str], InvisibleEmptyResult]


def open_recording(folder: Path) -> PosedSequence:
    """Open a sequence folder, a folder in the layout of KITTI odometry, or a drive of KITTI-360.

    Args:
        folder: Holds `sequence.json` (or a folder `sequence` with it), `calib.txt`, or is `data_2d_raw/DRIVE`.

    Raises:
        SequenceError: It is none of them.
    """
    for candidate in (folder, folder / "sequence"):
        if (candidate / INDEX_NAME).is_file():
            return PosedSequence.load(candidate)
    if (folder / "calib.txt").is_file():
        return kitti_odometry(folder)
    drive = folder.resolve()
    if drive.parent.name == KITTI_360_IMAGES:
        return kitti_360(drive.parent.parent, drive.name)
    raise SequenceError(
        "is no recording that can be evaluated",
        where=str(folder),
        cure=f"Name a folder with {INDEX_NAME}, one in KITTI odometry's layout, or data_2d_raw/DRIVE of KITTI-360",
    )


def lidar_frames(sequence: PosedSequence, settings: RunSettings) -> range:
    """Frames that the LiDAR protocols score: those with all N scans ahead, or frame 0 of a shorter recording."""
    if LIDAR not in sequence.rig_from_sensor or "lidar" not in sequence.frames[0].assets:
        return range(0)
    return range(0, max(1, len(sequence) - settings.scans + 1), settings.every)


def exact_frames(sequence: PosedSequence, every: int) -> Iterator[tuple[int, VoxelTruth]]:
    """Frames that have ground truth voxels, with these."""
    for index in range(0, len(sequence), every):
        truth = voxel_truth(sequence, index)
        if truth is not None:
            yield index, truth


def evaluate(
    recordings: Sequence[PosedSequence],
    models_of: Callable[[PosedSequence], list[DensityModel]],
    settings: RunSettings,
    on_frame: FrameHook | None = None,
) -> OccupancyResult:
    """Score models on recordings.

    Args:
        recordings: What to evaluate on.
        models_of: Models and controls for one of them; equal names are the same model.
        settings: Frames and scans.
        on_frame: Told of every evaluated frame.

    Raises:
        SequenceError: No frame has ground truth of any kind.
    """
    lidar, exact = LidarEvaluation(), ExactEvaluation()
    for sequence in recordings:
        models = models_of(sequence)
        pitch = camera_pitch(sequence) if settings.pitch is None else settings.pitch
        for index in range(0, len(sequence), settings.every):
            truth, scanned = voxel_truth(sequence, index), index in lidar_frames(sequence, settings)
            if truth is None and not scanned:
                continue
            observed = [(model, model.observe(sequence, index)) for model in models]
            if truth is not None:
                exact.update(truth, observed)
            if scanned:
                lidar.update(level_scans(sequence, index, settings.scans, pitch), pitch, observed)
            if on_frame is not None:
                on_frame(sequence, index, truth, observed)
    if not exact.frames and not lidar.metrics:
        raise SequenceError(
            "no frame has ground truth voxels or LiDAR",
            where=", ".join(sequence.name for sequence in recordings),
            cure="Render the town with its assets, or name recordings with LiDAR",
        )
    names = tuple(sequence.name for sequence in recordings)
    return OccupancyResult(names, exact.compute() if exact.frames else None, lidar.compute())


def calibrate_model(model: DensityModel, recordings: Sequence[PosedSequence], every: int) -> DensityModel:
    """Fit a model's calibration and threshold on recordings that it is neither trained nor scored on.

    Raises:
        GridError: There is no ground truth, or the model does not tell occupied from free voxels.
    """
    fit = CalibrationFit()
    for sequence in recordings:
        for index, truth in exact_frames(sequence, every):
            fit.update(truth, model.observe(sequence, index))
    return fit.fitted(model)
