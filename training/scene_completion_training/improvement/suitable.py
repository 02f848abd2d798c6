"""Which drives a student can be improved with, and which drives show the same place at the same time."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from scene_completion_ros.errors import ConfigurationError, ImprovementError, SceneCompletionError
from scene_completion_ros.geometry import Resampler
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import LARGEST_HEIGHT_RATIO, camera_warnings, mounting_warnings
from scene_completion_ros.inference.encoded_image import BLIND, shown_share
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import cameras_ahead, check_for_training, mounting
from scene_completion_training.arrays import Doubles, Floats
from scene_completion_training.data.motion_stereo import depth_meter
from scene_completion_training.data.recorded_camera import recorded_height
from scene_completion_training.gpu_export.parity import spread
from scene_completion_training.improvement.split import reach_of
from scene_completion_training.viewpoint import STREET_AHEAD_M

LEAST_MEASURED = 0.1  # share of the image with a measured depth below which nothing can be judged
LEAST_METRES = 2.0  # a rig that travels less on a street stands still
DARKEST = 25.0  # mean grey value (0..255) of an image below which it is night
# Correlation of small grey pictures from which they are the same recording, compressed once more or not.
SAME_PICTURE = 0.995
SAME_VIEW = 0.9  # correlation from which two pictures of one place in one map show the same things
NEAR_M = 10.0  # distance in one map of a street below which two frames stand at one place
SHARED = 0.1  # share of frames that may be alike before two drives overlap
_LOOKED_AT = 24  # frames of a drive
_PICTURE = (48, 16)  # width and height of the small pictures


def check_suitable(sequence: PosedSequence, bundle: StudentBundle) -> None:
    """Refuses a drive from which a student learns nothing, or something wrong.

    Raises ImprovementError where the rig does not move, neither a stereo pair nor its motion measures depth, or the
    scale is unknown. The camera is another one than the student's, nothing says how it stands where the student is told
    that, the lens is covered, or it is night. The message says which.
    """
    name = sequence.name
    try:
        check_for_training(sequence, name)
    except SceneCompletionError as error:
        raise ImprovementError(error.what, where=error.where, cure=error.cure) from error
    metres = sequence.travelled_distance()
    if metres < LEAST_METRES * (reach_of(bundle) / STREET_AHEAD_M if bundle.takes_pose else 1.0):
        cure = "Record while the robot drives: later frames are the judge"
        raise ImprovementError(f"the rig moves {metres:.1f} m", where=name, cure=cure)
    left = cameras_ahead(sequence)[0]
    camera = sequence.cameras[left]
    if bundle.takes_pose:  # it learned from lenses of many kinds, and from what they leave black
        other = camera_warnings(bundle, camera, 1.0) + _other_mounting(sequence, left, bundle)
    else:
        covered = float(Resampler(camera, bundle.canonical).validity.mean())
        other = camera_warnings(bundle, camera, covered) + _other_height(sequence, bundle)
    if other:
        what = f"this is not the camera of the student: {'; '.join(other)}"
        cure = "Name a student of this camera, or train one with `scene-completion train` and `camera: auto`"
        raise ImprovementError(what, where=f"{name}, camera {left}", cure=cure)
    _check_pictures(sequence, left)
    _check_depth(sequence, reach_of(bundle))


def _check_depth(sequence: PosedSequence, reach: float) -> None:
    meter = depth_meter(sequence, reach)
    looked_at = np.linspace(0, len(sequence) - 1, 5).round().astype(int)[1:-1].tolist()
    share = float(np.median([(meter(index).depth > 0.0).mean() for index in looked_at]))
    if share < LEAST_MEASURED:
        what = f"the {meter.kind} measures the depth of {100 * share:.0f} % of the image"
        cure = "Drive past things with texture, without turning on the spot, and check the poses and the calibration"
        raise ImprovementError(what, where=f"{sequence.name}, camera {meter.camera}", cure=cure)


def _other_mounting(sequence: PosedSequence, camera: str, bundle: StudentBundle) -> list[str]:
    """What is unusual about how the camera stands in most frames."""
    found = []
    for index in range(len(sequence)):
        stated = mounting(sequence, camera, index)
        if stated is None:
            what = "nothing says where up is, and how high the camera stands, which this student is told"
            cure = "Name a frame of tf whose z axis points up from the ground with --set extraction.ground_frame=map, "
            cure += "and the height of the ground in it with --set extraction.ground_height=METRES"
            raise ImprovementError(what, where=f"{sequence.name}, camera {camera}", cure=cure)
        found.append(mounting_warnings(bundle, stated))
    unusual = [warnings for warnings in found if warnings]
    return unusual[len(unusual) // 2] if 2 * len(unusual) > len(found) else []


def _other_height(sequence: PosedSequence, bundle: StudentBundle) -> list[str]:
    try:
        height, source = recorded_height([sequence])
    except ConfigurationError:  # nothing says how high it stands
        return []
    trained = bundle.height_above_ground
    if 1.0 / LARGEST_HEIGHT_RATIO <= height / trained <= LARGEST_HEIGHT_RATIO:
        return []
    return [f"it stands {height:.2f} m above the ground ({source}), the student's {trained:.2f} m"]


def _check_pictures(sequence: PosedSequence, camera: str) -> None:
    images = [sequence.image(index, camera) for index in spread(len(sequence), _LOOKED_AT)]
    shown = float(np.median([shown_share(image) for image in images]))
    bright = float(np.median([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean() for image in images]))
    if bright < DARKEST:
        what = f"it is night: the images have a mean grey value of {bright:.0f} of 255"
        cure = f"Record by day, or with lights that bring the mean above {DARKEST:g}"
        raise ImprovementError(what, where=sequence.name, cure=cure)
    if shown < BLIND:
        what = f"the lens is covered: {100 * shown:.0f} % of the image shows anything"
        raise ImprovementError(what, where=f"{sequence.name}, camera {camera}", cure="Clean the lens and record again")


@dataclass(frozen=True, eq=False)
class DriveLook:
    """What is compared of a drive."""

    name: str
    pictures: Floats  # small grey pictures of its frames [N, P], mean 0 and length 1 each
    places: Doubles  # positions of the camera in its map [N, 3], metres
    world: str  # what its poses come from; positions of one source alone can be compared
    near: float = NEAR_M  # distance below which two frames stand at one place, metres

    @staticmethod
    def of(sequence: PosedSequence, near: float = NEAR_M) -> "DriveLook":
        """Looks at all frames of a drive, with its first camera ahead."""
        left = cameras_ahead(sequence)[0]
        pictures, places = [], []
        for index in range(len(sequence)):
            grey = cv2.cvtColor(sequence.image(index, left), cv2.COLOR_RGB2GRAY)
            small = cv2.resize(grey, _PICTURE, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
            small -= small.mean()
            pictures.append(small / max(float(np.linalg.norm(small)), 1e-6))
            places.append(sequence.world_from_camera(index, left).translation)
        return DriveLook(sequence.name, np.stack(pictures), np.stack(places), sequence.pose_source, near)


def refuse_overlap(tested: Sequence[DriveLook], training: Sequence[DriveLook], *, role: str = "held-out drive") -> None:
    """Refuses drives to be scored on that a training has seen: a copy, or the same place under the same light.

    Two drives overlap where more than a tenth of the frames of one are alike in the other. Frames are alike where their
    pictures are the same, or where they stand at one place of one map and look alike. Maps of odometry begin at zero
    everywhere, therefore a place alone says nothing. Raises ImprovementError: names both.
    """
    for scored in tested:
        for learned in training:
            same, place = alike(scored, learned)
            if same > SHARED or place > SHARED:
                what = "is a copy of" if same > SHARED else "overlaps in place with"
                share = f"{100 * max(same, place):.0f} % of its frames"
                summary = f"{share}: it {what} {learned.name}, which is learned from"
                cure = "Hold out a drive of another place, or remove the other one from the training"
                raise ImprovementError(summary, where=f"{role} {scored.name}", cure=cure)


def alike(one: DriveLook, other: DriveLook) -> tuple[float, float]:
    """Share of the frames of a drive whose picture is in another, and that stand where it looks alike; 0..1 each."""
    correlation = one.pictures @ other.pictures.T
    same = float((correlation.max(axis=1) >= SAME_PICTURE).mean())
    if one.world != other.world:
        return same, 0.0
    distance = np.linalg.norm(one.places[:, None] - other.places[None], axis=-1)
    place = ((distance < one.near) & (correlation >= SAME_VIEW)).any(axis=1)
    return same, float(place.mean())
