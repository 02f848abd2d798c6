"""From posed frames to a training sequence: keyframes, rectified images, validity and ego masks.

Rectified are undistorted pinhole images: fisheyes seen through a pinhole camera, stereo pairs turned parallel.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import TypeAlias

import numpy as np

from scene_completion_ros.errors import ConfigurationError, ImageError, SceneCompletionError
from scene_completion_ros.geometry import Camera, Resampler, RigidTransform
from scene_completion_ros.geometry.plausible_cameras import SHORTEST_BASELINE_M, check_baseline
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, ImageSource, PosedSequence, read_source
from scene_completion_training.arrays import Bytes, Mask
from scene_completion_training.extraction.report import BagReport

WIDEST_VIEW_DEG = 100.0  # of a rectified fisheye
KEYFRAME_DEG = 5.0  # angle between keyframes that lie closer than `keyframe_metres`
FEWEST_FRAMES = 5  # keyframes of a sequence
_SAME_VIEW_COSINE = math.cos(math.radians(20.0))
_ONE_PLACE_M, _SAME_FOCAL_LENGTH = 1e-6, 0.1  # rounding of one place; of a pair, the logarithm of their ratio
Cameras: TypeAlias = Mapping[str, Camera]
Poses: TypeAlias = Mapping[str, RigidTransform]


@dataclass(frozen=True)
class ExtractionSettings:
    """Settings of an extraction; the help of the options of `scene-completion extract` explains them."""

    image_topics: tuple[str, ...] = ()
    camera_files: tuple[tuple[str, str], ...] = ()  # (topic, file)
    rectified: bool | None = None  # None: those images whose topics say so
    odometry_topic: str | None = None
    lidar_topic: str | None = None
    world_frame: str | None = None
    ground_frame: str | None = None
    ground_height: float = 0.0  # metres
    sync_tolerance: float = 0.005  # seconds
    keyframe_metres: float = 0.3
    ego_masks: tuple[tuple[str, str], ...] = ()  # (camera, file)


@dataclass(frozen=True, eq=False)
class View:
    """A camera as it will be in the sequence."""

    camera: Camera
    rig_from_camera: RigidTransform
    # Makes its images out of the recorded ones; None where they are kept as they are.
    resampler: Resampler | None = None

    def image(self, source: ImageSource) -> ImageSource:
        """Wrap the source of a recorded image."""
        return source if self.resampler is None else partial(rectified, source, self.resampler)

    @property
    def validity(self) -> Mask | None:
        """Where the recorded image covers the rectified one, bool [H, W]; None where all are kept."""
        return None if self.resampler is None else self.resampler.validity


def rectified(source: ImageSource, resampler: Resampler) -> Bytes:
    """Read an image and rectify it: uint8 RGB [H, W, 3]; black where the recorded image does not reach."""
    image: Bytes = resampler(read_source(source))
    return np.asarray(image * resampler.validity[..., None], dtype=np.uint8)


def rectified_views(cameras: Cameras, rig_from_camera: Poses) -> dict[str, View]:
    """Choose the rectified camera of every camera of a rig; fisheyes see 100°, horizontally and vertically.

    A stereo pair gets two parallel cameras of equal intrinsics, unless it has them already. The pair is the first two
    cameras with the same viewing direction, side by side. Every other camera keeps its place and direction.
    """
    views = {name: _upright_view(camera, rig_from_camera[name]) for name, camera in cameras.items()}
    pair = stereo_pair_of(cameras, rig_from_camera)
    if pair is not None and not _is_rectified(cameras, rig_from_camera, *pair):
        views |= _parallel_views(cameras, rig_from_camera, *pair)
    return views


def pinhole_for(camera: Camera) -> Camera:
    """Pinhole camera that shows about what a camera sees, at its resolution.

    Ordinary lenses keep intrinsics and size. Fisheyes keep the resolution of their middle and lose what lies further
    off the axis than half of `WIDEST_VIEW_DEG`.
    """
    if camera.distortion_model not in ("equidistant", "mei"):
        return camera.without_distortion()
    focal = min(camera.axial_focal_lengths)
    widest = 2.0 * focal * math.tan(math.radians(WIDEST_VIEW_DEG) / 2.0)
    width, height = min(camera.width, round(widest)), min(camera.height, round(widest))
    return Camera(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def stereo_pair_of(cameras: Cameras, rig_from_camera: Poses) -> tuple[str, str] | None:
    """Left and right camera of the first pair with the same viewing direction, side by side.

    Raises CameraError for two of one kind that stand as close as no stereo pair does, but not at one place.
    """
    for left, right in permutations(cameras, 2):
        offset = rig_from_camera[left].inverse() @ rig_from_camera[right]
        baseline = float(np.linalg.norm(offset.translation))
        if offset.translation[0] <= 0.7 * baseline or offset.rotation[2, 2] <= _SAME_VIEW_COSINE:
            continue
        if baseline > SHORTEST_BASELINE_M:
            return left, right
        if baseline > _ONE_PLACE_M and _of_one_kind(cameras[left], cameras[right]):
            check_baseline(baseline, f"{left} and {right}, by the transforms between them")
    return None


def _of_one_kind(one: Camera, other: Camera) -> bool:
    """Tell the cameras of a pair from those of colour and depth, which may stand close by."""
    same_size = (one.width, one.height) == (other.width, other.height)
    return same_size and abs(math.log(one.fx / other.fx)) < _SAME_FOCAL_LENGTH


def _upright_view(camera: Camera, rig_from_camera: RigidTransform) -> View:
    if camera.distortion_model == "none":
        return View(camera, rig_from_camera)
    target = pinhole_for(camera)
    return View(target, rig_from_camera, Resampler(camera, target))


def _is_rectified(cameras: Cameras, rig_from_camera: Poses, left: str, right: str) -> bool:
    offset = rig_from_camera[left].inverse() @ rig_from_camera[right]
    aside = np.abs(offset.translation[1:]).max() < 0.05 * offset.translation[0]
    parallel = np.trace(offset.rotation) > 3.0 - 1e-6
    return bool(cameras[left] == cameras[right] and cameras[left].distortion_model == "none" and aside and parallel)


def _parallel_views(cameras: Cameras, rig_from_camera: Poses, left: str, right: str) -> dict[str, View]:
    """Turn both cameras so that x runs along the baseline and z, as far as possible, where they looked."""
    offset = rig_from_camera[left].inverse() @ rig_from_camera[right]
    x = offset.translation / np.linalg.norm(offset.translation)
    y = np.cross(offset.rotation[:, 2] + [0.0, 0.0, 1.0], x)
    y /= np.linalg.norm(y)
    left_from_target = np.stack([x, y, np.cross(x, y)], axis=1)
    one, other = (pinhole_for(cameras[name]) for name in (left, right))
    focal = min(one.fx, one.fy, other.fx, other.fy)
    target = Camera(focal, focal, (one.width - 1) / 2, (one.height - 1) / 2, one.width, one.height)
    turns = {left: left_from_target, right: offset.rotation.T @ left_from_target}
    views = {}
    for name, turn in turns.items():
        resampler = Resampler(cameras[name], target, source_from_target_rotation=turn)
        views[name] = View(target, rig_from_camera[name] @ RigidTransform(turn, np.zeros(3)), resampler)
    return views


def _select_by_motion(poses: Sequence[RigidTransform], metres: float, degrees: float) -> list[int]:
    """Indices of frames that lie `metres` or are turned by `degrees` from the last one kept; the first is kept.

    `poses`: world_from_rig of every frame; `metres`: distance, in the units of the poses; `degrees`: angle.
    """
    kept: list[int] = []
    for index, pose in enumerate(poses):
        if not kept:
            kept.append(index)
            continue
        step = poses[kept[-1]].inverse() @ pose
        angle = math.degrees(math.acos(float(np.clip((np.trace(step.rotation) - 1.0) / 2.0, -1.0, 1.0))))
        if np.linalg.norm(step.translation) >= metres or angle >= degrees:
            kept.append(index)
    return kept


def finished(sequence: PosedSequence, settings: ExtractionSettings, report: BagReport) -> PosedSequence | None:
    """Thin out, rectify and mask a sequence; None where it has too few keyframes. The report gets what is left out.

    Masks become assets of every frame. "validity_CAMERA", bool [H, W], is True where the recorded image covers the
    rectified one. "ego_CAMERA", bool [H, W], is True where the camera sees its own vehicle.
    """
    keyframes = _keyframes(sequence, settings, report)
    if keyframes is None:
        return None
    views = rectified_views(sequence.cameras, sequence.rig_from_camera)
    frames = [
        dataclasses.replace(frame, images={name: views[name].image(source) for name, source in frame.images.items()})
        for frame in (sequence.frames[index] for index in keyframes)
    ]
    masks = _masks_of(sequence.cameras, views, settings)
    return dataclasses.replace(
        sequence,
        cameras={name: view.camera for name, view in views.items()},
        rig_from_camera={name: view.rig_from_camera for name, view in views.items()},
        frames=[dataclasses.replace(frame, assets={**frame.assets, **masks}) for frame in frames],
    )


def _masks_of(cameras: Cameras, views: Mapping[str, View], settings: ExtractionSettings) -> dict[str, ArrayLoader]:
    """Validity and ego masks by asset name.

    Raises ConfigurationError where an ego mask was given for a camera that does not exist; ImageError where the file of
    one cannot be used.
    """
    files = dict(settings.ego_masks)
    if unknown := sorted(set(files) - set(views)):
        what = f"no camera {', '.join(unknown)}"
        raise ConfigurationError(what, where="--ego-mask", cure=f"Name one of {', '.join(views)}")
    masks: dict[str, ArrayLoader] = {}
    for name, view in views.items():
        if view.validity is not None:
            masks[f"validity_{name}"] = partial(np.asarray, view.validity)
        if name in files:
            masks[f"ego_{name}"] = partial(np.asarray, _read_ego_mask(Path(files[name]), cameras[name], view))
    return masks


def _keyframes(sequence: PosedSequence, settings: ExtractionSettings, report: BagReport) -> list[int] | None:
    poses = [frame.world_from_rig for frame in sequence.frames]
    chosen = _select_by_motion(poses, settings.keyframe_metres, KEYFRAME_DEG)
    if len(chosen) < FEWEST_FRAMES:
        report.problems.append(
            f"{len(poses)} frames with {len(chosen)} keyframes are left out: the rig moves less than "
            f"{settings.keyframe_metres:g} m and {KEYFRAME_DEG:g}° between most of them. At least "
            f"{FEWEST_FRAMES} are wanted (--keyframe-metres)"
        )
        return None
    if len(chosen) < len(poses):
        reason = f"less than {settings.keyframe_metres:g} m and {KEYFRAME_DEG:g}° from the last keyframe"
        report.skipped[reason] += len(poses) - len(chosen)
    readable = [index for index in chosen if _is_readable(sequence.frames[index].images, sequence.cameras, report)]
    if len(readable) < FEWEST_FRAMES:
        report.problems.append(f"{len(poses)} frames are left out: only {len(readable)} keyframes can be decoded")
        return None
    return readable


def _is_readable(images: Mapping[str, ImageSource], cameras: Mapping[str, Camera], report: BagReport) -> bool:
    """Whether all images of a frame can be decoded and have the size of their calibration; if not, it is counted."""
    for name, source in images.items():
        try:
            height, width = read_source(source).shape[:2]
        except SceneCompletionError as error:
            report.skipped[f"{name}: image cannot be decoded, {error.what.partition(' (')[0]}"] += 1
            return False
        if (width, height) != (cameras[name].width, cameras[name].height):
            report.skipped[f"{name}: image of {width}x{height}, not the size of its calibration"] += 1
            return False
    return True


def _read_ego_mask(path: Path, camera: Camera, view: View) -> Mask:
    """Read an ego mask drawn on a recorded image as one of the view, bool [H, W], True on the own vehicle.

    The file is a picture of the recorded size, white where the camera sees its own vehicle. Raises ImageError where the
    file is no image or has another size.
    """
    mask = (read_rgb(path).max(axis=-1) > 127).astype(np.float32)
    if mask.shape != (camera.height, camera.width):
        what = f"mask is {mask.shape[1]}x{mask.shape[0]}, images are {camera.width}x{camera.height}"
        raise ImageError(what, where=str(path), cure="Draw it on a recorded image of this camera")
    return (mask if view.resampler is None else view.resampler(mask)) > 0.5
