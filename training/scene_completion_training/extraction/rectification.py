"""Undistorted pinhole images: fisheyes looked through by a pinhole camera, stereo pairs turned parallel."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from scene_completion_ros.geometry import Camera, Resampler, RigidTransform
from scene_completion_ros.sequences.posed_sequence import ImageSource, read_source
from scene_completion_training.arrays import Bytes, Mask

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
        return source if self.resampler is None else RectifiedImage(source, self.resampler)

    @property
    def validity(self) -> Mask | None:
        """Where the recorded image covers the rectified one, bool [H, W]; None where all are kept."""
        return None if self.resampler is None else self.resampler.validity


@dataclass(frozen=True, eq=False)
class RectifiedImage:
    """Image source that rectifies another one."""

    source: ImageSource
    resampler: Resampler

    def __call__(self) -> Bytes:
        """Read and rectify: uint8 RGB [H, W, 3]; black where the recorded image does not reach."""
        image: Bytes = self.resampler(read_source(self.source))
        return np.asarray(image * self.resampler.validity[..., None], dtype=np.uint8)


def rectified_views(cameras: Cameras, rig_from_camera: Poses, max_fov_degrees: float) -> dict[str, View]:
    """Choose the rectified camera of every camera of a rig; fisheyes see so many degrees, horizontally and vertically.

    A stereo pair gets two parallel cameras of equal intrinsics, unless it has them already. The pair is the first two
    cameras that look the same way, side by side. Every other camera keeps its place and direction.
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
    """Left and right camera of the first pair that looks the same way and stands side by side."""
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
