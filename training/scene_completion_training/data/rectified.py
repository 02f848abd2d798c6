"""Sequences whose cameras ahead have lenses: they are looked through by pinholes, as wide as the canonical camera."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, PosedSequence
from scene_completion_training.extraction.rectification import RectifiedImage

# Seen to each side beyond the canonical camera, which is turned a little against the real one in training.
_MARGIN = math.radians(8.0)
_STEEPEST = math.radians(75.0)  # off the axis; a pinhole stretches what lies further beyond all use


@dataclass(frozen=True, eq=False)
class RectifiedArray:
    """An array [H, W] of a camera with a lens, taken at the nearest pixels of a pinhole; 0 where it does not reach."""

    array: ArrayLoader
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    covered: NDArray[np.bool_]

    def __call__(self) -> NDArray[Any]:
        """The array as the pinhole sees it."""
        found = self.array()[self.row, self.column]
        return np.where(self.covered, found, np.zeros_like(found))


def has_lens(camera: Camera) -> bool:
    """Whether straight lines are bent: there is a fisheye, or a distortion that is not zero."""
    model = camera.distortion_model
    return model in ("equidistant", "mei") or (model != "none" and any(camera.distortion))


def rectified_sequence(sequence: PosedSequence, names: Sequence[str], canonical: Camera) -> PosedSequence:
    """The sequence with some cameras as pinholes at their place, as wide as the canonical camera and a little wider.

    They keep the resolution that the lens has in its middle; cameras that are pinholes stay as they are. Masks, and the
    depth of the first camera, are taken at the nearest pixels. Raises ConfigurationError where the canonical camera is
    wider than a pinhole can usefully be. `names`: cameras that look ahead.
    """
    bent = [name for name in names if has_lens(sequence.cameras[name])]
    if not bent:
        return sequence
    resamplers = {}
    for name in bent:
        camera = sequence.cameras[name]
        resamplers[name] = Resampler(camera, _pinhole(camera, canonical))
    pixels = {name: _nearest(resampler) for name, resampler in resamplers.items()}

    def seen(frame: Frame) -> Frame:
        images = {
            name: RectifiedImage(source, resamplers[name]) if name in resamplers else source
            for name, source in frame.images.items()
        }
        assets = dict(frame.assets)
        for name in bent:
            whole = partial(np.ones, (sequence.cameras[name].height, sequence.cameras[name].width), np.bool_)
            assets[f"validity_{name}"] = RectifiedArray(frame.assets.get(f"validity_{name}", whole), *pixels[name])
            if f"ego_{name}" in assets:
                assets[f"ego_{name}"] = RectifiedArray(assets[f"ego_{name}"], *pixels[name])
        if "depth" in assets and names[0] in bent:
            assets["depth"] = RectifiedArray(assets["depth"], *pixels[names[0]])
        return dataclasses.replace(frame, images=images, assets=assets)

    return dataclasses.replace(
        sequence,
        cameras={**sequence.cameras, **{name: resampler.target for name, resampler in resamplers.items()}},
        frames=[seen(frame) for frame in sequence.frames],
    )


def _pinhole(camera: Camera, canonical: Camera) -> Camera:
    focal = min(camera.axial_focal_lengths)
    left, right = ((0.5 + canonical.cx) / canonical.fx, (canonical.width - 0.5 - canonical.cx) / canonical.fx)
    top, bottom = ((0.5 + canonical.cy) / canonical.fy, (canonical.height - 0.5 - canonical.cy) / canonical.fy)
    if max(left, right) > math.tan(_STEEPEST):
        what = f"the canonical camera looks {math.degrees(math.atan(max(left, right))):.0f}° aside"
        cure = f"Take a field of view below {2.0 * math.degrees(_STEEPEST):.0f}°"
        raise ConfigurationError(what, where="camera", cure=cure)
    left, right = (math.tan(min(math.atan(edge) + _MARGIN, _STEEPEST)) for edge in (left, right))
    width, height = math.ceil(focal * (left + right)), math.ceil(focal * (top + bottom))
    return Camera(focal, focal, focal * left - 0.5, focal * top - 0.5, width, height)


def _nearest(resampler: Resampler) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Row and column of the lens's pixel nearest to each of the pinhole's, and whether there is one."""
    source, target = resampler.source, resampler.target
    pixels, covered = source.project(target.unproject(target.pixel_centres()))
    limits = np.array([source.width - 1, source.height - 1])
    nearest = np.clip(np.floor(np.nan_to_num(pixels) + 0.5), 0, limits).astype(np.int64)
    return nearest[..., 1], nearest[..., 0], np.asarray(covered)
