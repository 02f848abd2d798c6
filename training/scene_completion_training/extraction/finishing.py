"""From posed frames to a training sequence: keyframes, rectified images, validity and ego masks.

Rectified are undistorted pinhole images: fisheyes seen through a pinhole camera, stereo pairs turned parallel.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from scene_completion_ros.errors import ConfigurationError, ImageError, SceneCompletionError
from scene_completion_ros.geometry import Camera, Resampler, RigidTransform
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, ImageSource, PosedSequence, read_source
from scene_completion_training.arrays import Bytes, Mask
from scene_completion_training.extraction.settings import BagReport, ExtractionSettings

_SAME_VIEW_COSINE = math.cos(math.radians(20.0))
_SMALLEST_BASELINE_M = 0.01
Cameras: TypeAlias = Mapping[str, Camera]
Poses: TypeAlias = Mapping[str, RigidTransform]


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


def rectified_views(cameras: Cameras, rig_from_camera: Poses, max_fov_degrees: float) -> dict[str, View]:
    """Choose the rectified camera of every camera of a rig; fisheyes see so many degrees, horizontally and vertically.

    A stereo pair gets two parallel cameras of equal intrinsics, unless it has them already. The pair is the first two
    cameras with the same viewing direction, side by side. Every other camera keeps its place and direction.
    """
    views = {name: _upright_view(camera, rig_from_camera[name], max_fov_degrees) for name, camera in cameras.items()}
    pair = stereo_pair_of(cameras, rig_from_camera)
    if pair is not None and not _is_rectified(cameras, rig_from_camera, *pair):
        views |= _parallel_views(cameras, rig_from_camera, *pair, max_fov_degrees)
    return views


def pinhole_for(camera: Camera, max_fov_degrees: float) -> Camera:
    """Pinhole camera that shows about what a camera sees, at its resolution.

    Ordinary lenses keep intrinsics and size. Fisheyes keep the resolution of their middle and lose what lies further
    off the axis than half `max_fov_degrees`.
    """
    if camera.distortion_model not in ("equidistant", "mei"):
        return camera.without_distortion()
    focal = min(camera.axial_focal_lengths)
    widest = 2.0 * focal * math.tan(math.radians(max_fov_degrees) / 2.0)
    width, height = min(camera.width, round(widest)), min(camera.height, round(widest))
    return Camera(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def stereo_pair_of(cameras: Cameras, rig_from_camera: Poses) -> tuple[str, str] | None:
    """Left and right camera of the first pair with the same viewing direction, side by side."""
    for left in cameras:
        for right in cameras:
            offset = rig_from_camera[left].inverse() @ rig_from_camera[right]
            baseline = float(np.linalg.norm(offset.translation))
            aside = baseline > _SMALLEST_BASELINE_M and offset.translation[0] > 0.7 * baseline
            if left != right and aside and offset.rotation[2, 2] > _SAME_VIEW_COSINE:
                return left, right
    return None


def _upright_view(camera: Camera, rig_from_camera: RigidTransform, max_fov_degrees: float) -> View:
    if camera.distortion_model == "none":
        return View(camera, rig_from_camera)
    target = pinhole_for(camera, max_fov_degrees)
    return View(target, rig_from_camera, Resampler(camera, target))


def _is_rectified(cameras: Cameras, rig_from_camera: Poses, left: str, right: str) -> bool:
    offset = rig_from_camera[left].inverse() @ rig_from_camera[right]
    aside = np.abs(offset.translation[1:]).max() < 0.05 * offset.translation[0]
    parallel = np.trace(offset.rotation) > 3.0 - 1e-6
    return bool(cameras[left] == cameras[right] and cameras[left].distortion_model == "none" and aside and parallel)


def _parallel_views(
    cameras: Cameras, rig_from_camera: Poses, left: str, right: str, max_fov_degrees: float
) -> dict[str, View]:
    """Turn both cameras so that x runs along the baseline and z, as far as possible, where they looked."""
    offset = rig_from_camera[left].inverse() @ rig_from_camera[right]
    x = offset.translation / np.linalg.norm(offset.translation)
    y = np.cross(offset.rotation[:, 2] + [0.0, 0.0, 1.0], x)
    y /= np.linalg.norm(y)
    left_from_target = np.stack([x, y, np.cross(x, y)], axis=1)
    one, other = (pinhole_for(cameras[name], max_fov_degrees) for name in (left, right))
    focal = min(one.fx, one.fy, other.fx, other.fy)
    target = Camera(focal, focal, (one.width - 1) / 2, (one.height - 1) / 2, one.width, one.height)
    turns = {left: left_from_target, right: offset.rotation.T @ left_from_target}
    views = {}
    for name, turn in turns.items():
        resampler = Resampler(cameras[name], target, source_from_target_rotation=turn)
        views[name] = View(target, rig_from_camera[name] @ RigidTransform(turn, np.zeros(3)), resampler)
    return views


_CORNERS = 300
_SHIFT = 0.008  # of the image's width: the median shift that makes a keyframe
_SMALLEST_SHARE = 0.4  # of the corners that must still be tracked, or the view has changed altogether


def select_by_motion(poses: Sequence[RigidTransform], metres: float, degrees: float) -> list[int]:
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


def select_by_image_motion(images: Iterable[Bytes]) -> list[int]:
    """Indices of grey images [H, W] in which corners have moved since the last one kept: none where the rig stands.

    The corners of the last keyframe are followed from image to image (Lucas and Kanade 1981). What moves in front of a
    standing camera is in the minority, so that the median decides.
    """
    kept: list[int] = []
    previous = np.zeros((0, 0), np.uint8)
    corners = starts = np.zeros((0, 1, 2), np.float32)
    count = 0
    for index, image in enumerate(images):
        if kept and len(corners):
            start, window = corners.copy(), (15, 15)
            moved, found, _ = cv2.calcOpticalFlowPyrLK(previous, image, corners, start, winSize=window, maxLevel=4)
            alive = found.reshape(-1).astype(bool)
            corners, starts = np.asarray(moved, np.float32)[alive], starts[alive]
        shift = float(np.median(np.linalg.norm(corners - starts, axis=-1))) if len(corners) else 0.0
        if not kept or shift > _SHIFT * image.shape[1] or len(corners) < _SMALLEST_SHARE * count or not count:
            kept.append(index)
            found = cv2.goodFeaturesToTrack(image, _CORNERS, 0.01, image.shape[1] / 60)
            corners = starts = np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found)
            count = len(corners)
        previous = image
    return kept


def finished(sequence: PosedSequence, settings: ExtractionSettings, report: BagReport) -> PosedSequence | None:
    """Thin out, rectify and mask a sequence; None where it has too few keyframes. The report gets what is left out.

    Masks become assets of every frame. "validity_CAMERA", bool [H, W], is True where the recorded image covers the
    rectified one. "ego_CAMERA", bool [H, W], is True where the camera sees its own vehicle. What is rectified and
    masked already, as sequences out of images are, stays as it is.
    """
    keyframes = _keyframes(sequence, settings, report)
    if keyframes is None:
        return None
    views = rectified_views(sequence.cameras, sequence.rig_from_camera, settings.max_fov_degrees)
    frames = [
        dataclasses.replace(frame, images={name: views[name].image(source) for name, source in frame.images.items()})
        for frame in (sequence.frames[index] for index in keyframes)
    ]
    masks = masks_of(sequence.cameras, views, settings, present=frames[0].assets.keys())
    return dataclasses.replace(
        sequence,
        cameras={name: view.camera for name, view in views.items()},
        rig_from_camera={name: view.rig_from_camera for name, view in views.items()},
        frames=[dataclasses.replace(frame, assets={**frame.assets, **masks}) for frame in frames],
        provenance=sequence.provenance | {"settings": settings.changed()},
    )


def masks_of(
    cameras: Cameras, views: Mapping[str, View], settings: ExtractionSettings, *, present: Collection[str] = ()
) -> dict[str, ArrayLoader]:
    """Validity and ego masks by asset name, but for those that are present.

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
        if name in files and f"ego_{name}" not in present:
            masks[f"ego_{name}"] = partial(np.asarray, read_ego_mask(Path(files[name]), cameras[name], view))
    return masks


def grey(source: ImageSource) -> Bytes:
    """Read an image as grey values, uint8 [H, W]."""
    return np.asarray(cv2.cvtColor(read_source(source), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _keyframes(sequence: PosedSequence, settings: ExtractionSettings, report: BagReport) -> list[int] | None:
    poses = [frame.world_from_rig for frame in sequence.frames]
    if sequence.metric_scale:
        chosen = select_by_motion(poses, settings.keyframe_metres, settings.keyframe_degrees)
    else:
        chosen = list(range(len(poses)))  # thinned out by what moves in the images; metres are not known
    if len(chosen) < settings.min_frames:
        report.problems.append(
            f"{len(poses)} frames with {len(chosen)} keyframes are left out: the rig moves less than "
            f"{settings.keyframe_metres:g} m and {settings.keyframe_degrees:g}° between most of them. At least "
            f"{settings.min_frames} are wanted (--set min_frames, keyframe_metres)"
        )
        return None
    if len(chosen) < len(poses):
        reason = f"less than {settings.keyframe_metres:g} m and {settings.keyframe_degrees:g}° from the last keyframe"
        report.skipped[reason] += len(poses) - len(chosen)
    readable = [index for index in chosen if is_readable(sequence.frames[index].images, sequence.cameras, report)]
    if len(readable) < settings.min_frames:
        report.problems.append(f"{len(poses)} frames are left out: only {len(readable)} keyframes can be decoded")
        return None
    return readable


def is_readable(images: Mapping[str, ImageSource], cameras: Mapping[str, Camera], report: BagReport) -> bool:
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


def read_ego_mask(path: Path, camera: Camera, view: View) -> Mask:
    """Read an ego mask drawn on a recorded image as one of the view, bool [H, W], True on the own vehicle.

    The file is a picture of the recorded size, white where the camera sees its own vehicle. Raises ImageError where the
    file is no image or has another size.
    """
    mask = (read_rgb(path).max(axis=-1) > 127).astype(np.float32)
    if mask.shape != (camera.height, camera.width):
        what = f"mask is {mask.shape[1]}x{mask.shape[0]}, images are {camera.width}x{camera.height}"
        raise ImageError(what, where=str(path), cure="Draw it on a recorded image of this camera")
    return (mask if view.resampler is None else view.resampler(mask)) > 0.5
