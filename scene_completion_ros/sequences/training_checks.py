"""What a posed sequence must fulfil before a network is trained on it, or scored."""

from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera, stereo_pair

SMALLEST_BASELINE_M = 0.01
SMALLEST_PATH_M = 0.5
STEP_M = 0.2  # shorter steps of a car say nothing about where its cameras look
# Points that a pair has to share before their order counts, and how far apart their rows may be.
MATCHES, SAME_ROW_PX = 40, 2.0


def check_for_training(sequence: PosedSequence, where: str) -> None:
    """Refuse a sequence from which a network would learn something wrong, or break on the way.

    Poses with NaN never get this far: a transform cannot hold them, and opening the sequence names the frame. Raises
    SequenceError: unknown scale, a missing image file, a frame without one of the cameras, two cameras at one place, a
    rig that does not move, a car that drives to where its cameras do not look, or a pair whose left and right are
    swapped.
    """
    if not sequence.metric_scale:
        cure = "Training needs metres: extract it again with --camera-height, odometry or a stereo pair"
        raise SequenceError("scale: unknown", where=where, cure=cure)
    for index, frame in enumerate(sequence.frames):
        if absent := sorted(set(sequence.cameras) - set(frame.images)):
            cure = "Leave out frames that not all cameras have, or extract the sequence again"
            raise SequenceError(f"no image of {', '.join(absent)}", where=f"{where}, frame {index}", cure=cure)
        for camera, source in frame.images.items():
            if isinstance(source, Path) and not source.is_file():
                what = f"image file {source} is missing"
                cure = "Restore the file or extract the sequence again"
                raise SequenceError(what, where=f"{where}, frame {index}, camera {camera!r}", cure=cure)
    _check_baselines(sequence, where)
    check_rig(sequence, where)


def check_rig(sequence: PosedSequence, where: str) -> None:
    """Refuse a rig by which trainings and scores come out wrong, without anybody noticing.

    Raises:
        SequenceError: A car that drives to where its cameras do not look, or a pair whose left and right are swapped.
    """
    if str(sequence.provenance.get("dataset", "")).startswith("KITTI"):
        _check_direction(sequence, where)
    _check_sides(sequence, where)


def _check_baselines(sequence: PosedSequence, where: str) -> None:
    for one, other in combinations(sorted(sequence.cameras), 2):
        offset = sequence.rig_from_camera[one].inverse() @ sequence.rig_from_camera[other]
        same_view = np.trace(offset.rotation) > 2.9  # cameras that look elsewhere may well share a centre
        if same_view and np.linalg.norm(offset.translation) < SMALLEST_BASELINE_M:
            cure = "Correct the static transforms or P of the stereo calibration, then extract it again"
            raise SequenceError(f"zero baseline: {one} and {other} stand at one place", where=where, cure=cure)
    if len(sequence) > 1 and sequence.travelled_distance() < SMALLEST_PATH_M and len(sequence.cameras) == 1:
        what = f"zero baseline: one camera that moves {sequence.travelled_distance():.2f} m in {len(sequence)} frames"
        cure = "Check the poses: other views of the same place are what training learns from"
        raise SequenceError(what, where=where, cure=cure)


def _check_direction(sequence: PosedSequence, where: str) -> None:
    """Refuse poses of another convention: in their own frame, cars with cameras ahead drive along z."""
    camera = reference_camera(sequence)
    poses = [sequence.world_from_camera(index, camera) for index in range(len(sequence))]
    steps = np.array([(here.inverse() @ there).translation for here, there in pairwise(poses)]).reshape(-1, 3)
    lengths = np.linalg.norm(steps, axis=1)
    along = steps[lengths > STEP_M, 2] / lengths[lengths > STEP_M]
    if along.size and np.median(along) < 0.5:
        raise SequenceError(
            f"the car drives at {np.degrees(np.arccos(np.median(along))):.0f} degrees to where {camera} looks",
            where=where,
            cure="The poses have another convention: give camera_to_world (x right, y down, z forward), or those of "
            "the IMU as KITTI-360 has them",
        )


def _check_sides(sequence: PosedSequence, where: str) -> None:
    """Refuse a pair whose folders are swapped: what both cameras see lies further to the right in the left image."""
    try:
        pair = stereo_pair(sequence)[:2]
    except SequenceError:
        return
    images = [cv2.cvtColor(sequence.image(len(sequence) // 2, name), cv2.COLOR_RGB2GRAY) for name in pair]
    finder = cv2.ORB_create(1000)  # type: ignore[attr-defined]
    (left, of_left), (right, of_right) = (finder.detectAndCompute(image, None) for image in images)
    if of_left is None or of_right is None:
        return
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(of_left, of_right)
    shifts = np.array([np.subtract(left[m.queryIdx].pt, right[m.trainIdx].pt) for m in matches]).reshape(-1, 2)
    disparity = shifts[np.abs(shifts[:, 1]) < SAME_ROW_PX, 0]
    if len(disparity) >= MATCHES and np.mean(disparity < -1.0) > 0.8:
        what = f"left and right are swapped: {pair[0]} shows what {pair[1]} should"
        cure = "Exchange the folders of their images, or the static transforms of the cameras"
        raise SequenceError(what, where=where, cure=cure)
