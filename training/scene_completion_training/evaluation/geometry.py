"""Predictors against voxels, depth and LiDAR: which frames are scored, the mean depth, calibration."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.depth import MAXIMUM_M, MINIMUM_M, garg_crop
from scene_completion_ros.evaluation.occupancy import best_iou, fit_calibration, score_histogram
from scene_completion_ros.evaluation.truth import DepthTruth, FrameTruth
from scene_completion_ros.progress import watched
from scene_completion_ros.sequences.frame_lists import SIDES, FrameSplit, frame_indices
from scene_completion_ros.sequences.opening import holds_voxels, lidar_depth, truth_later, voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.arrays import Floats
from scene_completion_training.evaluation import lidar_evaluation
from scene_completion_training.evaluation.controls import MeanDepth
from scene_completion_training.evaluation.predictor import (
    VOXEL_EDGE,
    Frame,
    Predictor,
    calibrated_cutoffs,
)


def scored_frames(
    sequence: PosedSequence,
    every: int,  # frames between scored ones; of those with voxels, images between them
    *,
    scans: int = 20,  # scans N that the LiDAR protocols accumulate
    # A frame list instead; of the frames near the end of a drive, which have fewer scans ahead, it has some.
    split: FrameSplit | None = None,
    # How far the reference camera looks down, radians; None for what is known of the recording.
    pitch: float | None = None,
    # This frame alone, against the voxels of the first one: what robots know of earlier frames, the first one of a
    # labelled window does not have.
    at: int | None = None,
) -> Iterator[Frame]:
    """Frames with voxels, or with scans: those with all N ahead, or frame 0 of a shorter recording.

    Raises SequenceError where there is no frame `at`.
    """
    if at is not None:
        if at >= len(sequence):
            what = f"has no frame {at}, but {len(sequence)} frames"
            raise SequenceError(what, where=sequence.name, cure="Name an earlier one with --at")
        later = truth_later(sequence, at)
        if later is not None:
            yield Frame(sequence, at, FrameTruth(later, None))
        return
    pitch = lidar_evaluation.camera_pitch(sequence) if pitch is None else pitch
    scanned: Collection[int] = ()
    if lidar_evaluation.LIDAR in sequence.rig_from_sensor and (
        "bag" in sequence.provenance or "lidar" in sequence.frames[0].assets
    ):
        posed = [index for index, _ in lidar_evaluation.scan_poses(sequence)]
        scanned = posed[: max(1, len(posed) - scans + 1) : every]
    with_voxels = set(frames_with_voxels(sequence, every))
    indices: Collection[int] = sorted(with_voxels.union(scanned))
    if split is not None:
        indices = listed_frames(sequence, split)
        with_voxels, scanned = set(indices), indices if scanned else ()
    for index in indices:
        truth = voxel_truth(sequence, index) if index in with_voxels else None
        slabs: tuple[lidar_evaluation.Slab, ...] = ()
        if index in scanned:
            slabs = lidar_evaluation.slabs_of(lidar_evaluation.level_scans(sequence, index, scans, pitch), pitch)
        if truth is not None or slabs:
            yield Frame(sequence, index, FrameTruth(truth, None), slabs)


def listed_frames(sequence: PosedSequence, split: FrameSplit) -> list[int]:
    """Frames that a list names for the left camera, as it orders them."""
    return [index for index, side in split.of(sequence) if side == SIDES[0]]


def frames_with_voxels(sequence: PosedSequence, every: int = 1) -> list[int]:
    """Frames that have voxels, each at least so many images (by number, as in SemanticKITTI) after the last."""
    number_of = {index: number for number, index in frame_indices(sequence).items()}
    found: list[int] = []
    for index in range(len(sequence)):
        if holds_voxels(sequence, index) and (
            not found or number_of.get(index, index) >= number_of.get(found[-1], found[-1]) + every
        ):
            found.append(index)
    return found


def voxel_places(
    recordings: Iterable[PosedSequence], every: int = 1, split: FrameSplit | None = None
) -> Iterator[tuple[PosedSequence, int]]:
    """The frames of recordings that have voxels, or those of them that a list names."""
    for sequence in recordings:
        listed = None if split is None else set(listed_frames(sequence, split))
        for index in frames_with_voxels(sequence, every if listed is None else 1):
            if listed is None or index in listed:
                yield sequence, index


def placed_frames(places: Iterable[tuple[PosedSequence, int]]) -> Iterator[Frame]:
    """Those frames with their voxels; a terminal shows how far it is."""
    for sequence, index in watched(places, "frame"):
        truth = voxel_truth(sequence, index)
        if truth is not None:
            yield Frame(sequence, index, FrameTruth(truth, None))


def voxel_frames(drives: Iterable[PosedSequence], every: int = 1, split: FrameSplit | None = None) -> Iterator[Frame]:
    """Frames of recordings that have voxels, or those of them that a list names."""
    return placed_frames(voxel_places(drives, every, split))


def counted_depth(measured: Floats) -> Floats:
    """The depth image [H, W], metres, with 0 for all pixels that do not count inside the Garg crop."""
    counted = (measured > MINIMUM_M) & (measured < MAXIMUM_M) & garg_crop(*measured.shape)
    return np.where(counted, measured, np.float32(0.0))


def scanned_frames(sequence: PosedSequence, split: FrameSplit | None = None) -> list[int]:
    """Frames with a scan of their own, or those of them that a list names for the left camera, as it orders them."""
    scans = {number: k for number, k in frame_indices(sequence).items() if "lidar" in sequence.frames[k].assets}
    if split is None:
        return list(scans.values())
    return [index for index, side in split.of_drive(sequence.name, scans) if side == SIDES[0]]


def depth_frames(sequence: PosedSequence, indices: Iterable[int]) -> Iterator[Frame]:
    """Frames with the LiDAR in their reference camera as depth; those that have no scan are left out.

    Scores are means over frames of the errors of each frame, see `scene_completion_ros.evaluation.depth`. Published
    evaluations differ in details. They render 192 x 640 rays and enlarge the image, where here every counted pixel has
    its own ray. They place the LiDAR one pixel further left and up than it projects. The Eigen ground truth of
    Monodepth2 is the distance along the LiDAR's x axis. That is 0.27 m more than the depth in the camera's frame, which
    counts here as it does for Behind the Scenes. Models that encode several views take further frames of the drive,
    listed or not: unpack whole drives for them.
    """
    camera = sequence.cameras[reference_camera(sequence)]
    for index in indices:
        depth = lidar_depth(sequence, index)
        if depth is not None:
            yield Frame(sequence, index, FrameTruth(None, DepthTruth(camera, depth)))


def mean_depth(sequences: Sequence[PosedSequence]) -> MeanDepth:
    """A control: the mean LiDAR depth over all scans of other drives; a `SequenceError` without any."""
    mean = MeanDepth()
    for sequence in sequences:
        for frame in depth_frames(sequence, range(len(sequence))):
            assert frame.truth.depth is not None
            mean.update(frame.truth.depth.depth)
    if not mean.counts.any():
        names = ", ".join(sequence.name for sequence in sequences)
        raise SequenceError("no LiDAR in the image", where=names, cure="Name drives with LiDAR scans")
    return mean


def calibrate(model: Predictor, frames: Iterable[Frame]) -> None:
    """Give a predictor the calibration and the threshold that fit frames which are not scored.

    Raises GridError where they tell nothing.
    """
    empty = np.zeros(0, dtype=np.float32)
    histogram = score_histogram(empty, empty > 0.0)
    for frame in frames:
        density = model.complete(frame.sequence, frame.index).voxel_density(frame.voxels)[frame.voxels.counted]
        histogram += score_histogram(opacity(density, VOXEL_EDGE), frame.voxels.occupied[frame.voxels.counted])
    model.calibration = fit_calibration(histogram)
    model.threshold = float(model.calibration.apply(np.array([best_iou(histogram)[1]], dtype=np.float32))[0])
    model.cutoffs = calibrated_cutoffs(model.calibration, model.threshold)
