"""Which cameras of a rig look ahead, and which of them the others are measured by."""

import itertools

import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.sequences.posed_sequence import PosedSequence

# fx / width of the calibrations of three days (odometry 04 to 10, odometry 00 to 02, most of raw) -> how the left
# colour camera stood above the road: metres, degrees down and rolled to the right. Rounded from the ground that stereo
# and LiDAR measured on drives 00, 02, 05, 07, raw 0013 and 0056, and the pairs of KITTI 2015; frames scatter by 0.04 m,
# 0.4° and 1°.
_KITTI_MOUNTINGS = {0.5768: (1.62, 0.7, 1.2), 0.5792: (1.65, 0.8, 1.4), 0.5809: (1.61, -0.3, 0.8)}
TOWNS = "street world"  # source of rendered towns
ROOMS = "room world"  # of rendered rooms


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
    steps = [turn.T @ (later - here) for (here, turn), (later, _) in itertools.pairwise(places)]
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


def stored_around(sequence: PosedSequence) -> str | None:
    """The camera that stored depth and voxels of a sequence belong to, where its provenance says it."""
    stored = sequence.provenance.get("voxel_grid")
    return str(stored["around"]) if isinstance(stored, dict) and "around" in stored else None
