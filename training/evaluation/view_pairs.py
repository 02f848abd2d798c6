"""Pairs of views of a recording, and which of their pixels show the same point: by measured depth and by the poses.

The depth is that of the recording, never a model's: exact where the recording has it (rendered towns, left camera),
matched from the stereo pair otherwise. A correspondence needs two dense depths that agree, which scans do not give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.feature_consistency import warp_from_depth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data.prepared import world_mask
from scene_completion_training.data.stereo import stereo_pair
from scene_completion_training.evaluation.controls import measured_depth
from scene_completion_training.evaluation.density_model import reference_camera

LATER, PARTNER = "{step} frames later", "stereo partner"


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two views, and the pixels of the first in the second.

    Attributes:
        kind: What the second is to the first.
        first: Frame and camera.
        second: Frame and camera.
        warp: Pixels (u, v) of the second view, float64 [H, W, 2], of the pixels of the first.
        valid: bool [H, W], pixels whose point both views see.
    """

    kind: str
    first: tuple[int, str]
    second: tuple[int, str]
    warp: NDArray[np.float64]
    valid: NDArray[np.bool_]

    def unrelated(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """A warp [H, W, 2] that leads each valid pixel to where another one, drawn at random, belongs."""
        mixed = self.warp.copy()
        mixed[self.valid] = generator.permutation(self.warp[self.valid])
        return mixed


def view_pairs(sequence: PosedSequence, camera: Camera, *, step: int, every: int) -> Iterator[ViewPair]:
    """Pairs of each `every`-th frame: its reference view with that some frames later, and with its stereo partner.

    Args:
        camera: Canonical camera that all views are resampled into; its resolution is that of the warp.
        step: Frames to the later view.
        every: Frames between first views.

    Raises:
        SequenceError: A view has no depth.
    """
    names = views_ahead(sequence)
    depth = lru_cache(maxsize=2 * step + 2)(lambda index, name: view_depth(sequence, index, name, camera))
    for index in range(0, len(sequence), every):
        first = (index, names[0])
        others = {LATER.format(step=step): (index + step, names[0])} if index + step < len(sequence) else {}
        if len(names) == 2 and names[1] in sequence.frames[index].images:
            others[PARTNER] = (index, names[1])
        for kind, second in others.items():
            pose = sequence.world_from_camera(*second).inverse() @ sequence.world_from_camera(*first)
            warp, valid = warp_from_depth(depth(*first), depth(*second), camera, camera, pose)
            yield ViewPair(kind, first, second, warp, valid)


def views_ahead(sequence: PosedSequence) -> tuple[str, ...]:
    """The cameras of the stereo pair, left first; the reference camera alone where there is no pair."""
    try:
        return stereo_pair(sequence)[:2]
    except SequenceError:
        return (reference_camera(sequence),)


def view_depth(sequence: PosedSequence, index: int, name: str, camera: Camera) -> NDArray[np.float32]:
    """z-depth [H, W] that the recording knows of a view, resampled into a camera at the same place.

    Args:
        name: The camera: the reference camera, or the right one of the stereo pair.
        camera: The camera to resample into, by the nearest pixel.

    Returns:
        float32 [H, W], metres; 0 where it is unknown or the view shows the vehicle itself, not finite in the sky.

    Raises:
        SequenceError: There is neither exact depth nor a stereo pair.
    """
    exact = sequence.asset(index, "depth") if name == reference_camera(sequence) else None
    if exact is None:
        depth = measured_depth(sequence, index, "right" if name == stereo_pair(sequence)[1] else "left")
    else:
        depth = np.asarray(exact, np.float32)
    mask = world_mask(sequence, index, name)
    if mask is not None:
        depth = np.where(mask > 0, depth, np.float32(0.0))
    pixels, inside = sequence.cameras[name].project(camera.unproject(camera.pixel_centres()))
    nearest = np.floor(np.where(inside[..., None], pixels, 0.0) + 0.5).astype(np.int64)
    column, row = np.clip(nearest, 0, (depth.shape[1] - 1, depth.shape[0] - 1)).transpose(2, 0, 1)
    return np.where(inside, depth[row, column], np.float32(0.0))
