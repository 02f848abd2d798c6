"""Which cameras of a rig look ahead or measure the others, and what a sequence must fulfil for training and scoring."""

from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.sequences.posed_sequence import TOWNS, PosedSequence, stored_around

# fx / width of the calibrations of three days (odometry 04 to 10, odometry 00 to 02, most of raw) -> how the left
# colour camera stood above the road: metres, degrees down and rolled to the right. Rounded from the ground that stereo
# and LiDAR measured on drives 00, 02, 05, 07, raw 0013 and 0056, and the pairs of KITTI 2015; frames scatter by 0.04 m,
# 0.4° and 1°.
_KITTI_MOUNTINGS = {0.5768: (1.62, 0.7, 1.2), 0.5792: (1.65, 0.8, 1.4), 0.5809: (1.61, -0.3, 0.8)}


def stereo_pair(sequence: PosedSequence) -> tuple[str, str, float]:
    """Left, right camera, baseline (m) of a sequence's rectified pair. Raises SequenceError where there is none."""
    names = sorted(sequence.cameras)
    for left in names:
        for right in names:
            if left == right or sequence.cameras[left].matrix.tolist() != sequence.cameras[right].matrix.tolist():
                continue
            offset = sequence.rig_from_camera[left].inverse() @ sequence.rig_from_camera[right]
            x, y, z = offset.translation
            if x > 0.05 and abs(y) < 0.05 * x and abs(z) < 0.05 * x and np.trace(offset.rotation) > 3.0 - 1e-6:
                return left, right, float(x)
    cure = "Training needs two rectified cameras of equal intrinsics, side by side"
    raise SequenceError("no rectified stereo pair", where=f"sequence {sequence.name}, cameras {names}", cure=cure)


def cameras_ahead(sequence: PosedSequence) -> tuple[str, ...]:
    """Left and right camera of the stereo pair; of a rig without one, the camera that looks where it goes."""
    try:
        return stereo_pair(sequence)[:2]
    except SequenceError:
        names = sorted(sequence.cameras)
    places = [(frame.world_from_rig.translation, frame.world_from_rig.rotation) for frame in sequence.frames]
    steps = [turn.T @ (later - here) for (here, turn), (later, _) in pairwise(places)]
    ahead = np.sum(steps, axis=0) if steps else np.zeros(3)  # in the rig's frame
    return (max(names, key=lambda name: float(sequence.rig_from_camera[name].rotation[:, 2] @ ahead)),)


def reference_camera(sequence: PosedSequence) -> str:
    """Camera whose frame points are given in: the one that voxels are stored around, KITTI's left colour one, or left.

    "Left" is the first of `cameras_ahead`.
    """
    for name in (stored_around(sequence), "image_2"):
        if name in sequence.cameras:
            return str(name)
    return cameras_ahead(sequence)[0]


def mounting(sequence: PosedSequence, camera: str, index: int = 0) -> RigidTransform | None:
    """Pose of a camera's optical frame in a frame whose z axis points up and begins on the ground; None if unknown.

    The rig frame of rendered towns is one. Of KITTI's cars it is what was measured, see `_KITTI_MOUNTINGS`. Where the
    world stands upright and its floor is known, it is that of this frame: a camera in a hand has no mounting.
    """
    floor = sequence.floor
    if floor is not None:
        stands = sequence.world_from_camera(index, camera).levelled()
        return RigidTransform(stands.rotation, stands.translation - (0.0, 0.0, floor))
    if sequence.provenance.get("source") == TOWNS:
        return sequence.rig_from_camera[camera]
    if sequence.provenance.get("dataset") == "KITTI":
        seen = sequence.cameras[camera]
        day = min(_KITTI_MOUNTINGS, key=lambda ratio: abs(ratio - seen.fx / seen.width))
        height, pitch, roll = _KITTI_MOUNTINGS[day]
        half = np.radians([roll, pitch]) / 2.0
        (x, of_x), (y, of_y) = zip(np.sin(half), np.cos(half), strict=True)
        rolled = RigidTransform.from_quaternion([x, 0.0, 0.0, of_x], np.zeros(3))
        pitched = RigidTransform.from_quaternion([0.0, y, 0.0, of_y], np.array([0.0, 0.0, height]))
        return pitched @ rolled @ RigidTransform(OPTICAL_FROM_FORWARD.inverse().rotation, np.zeros(3))
    return None


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
