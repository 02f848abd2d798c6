"""Training checkpoints as density models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.render import said_depth
from scene_completion_ros.inference.scene_query import ray_camera
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_ros.voxels.occupancy import Calibration
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.data.drawn_views import metres_travelled, nearest_along
from scene_completion_training.evaluation.density_model import (
    IDENTITY,
    PUBLISHED_CUTOFF,
    PUBLISHED_RULE,
    DensityModel,
    Observation,
)
from scene_completion_training.export import ray_depth
from scene_completion_training.networks.density_field import DensityField, SingleViewObservation
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.networks.observed_field import ObservedField

VIEW_SHARES = (0.0, 2 / 3, 1 / 3, 1.0)
"""Places along the drive of the first, second, and further views that a multi-view field encodes. The first is at the
evaluated frame. The others are at these shares of the way from the least to the most metres (`encoder_metres`) that it
was trained with.
"""
_CHUNK = 1 << 16  # points in memory at a time


def open_checkpoint(path: Path, views: Sequence[int] = (1,)) -> list[DensityModel]:
    """Open a checkpoint, once for each number of encoded views.

    Args:
        views: Numbers of views; the first ones of `VIEW_SHARES` are encoded.

    Raises:
        BundleError: The file is no such checkpoint.
        ConfigurationError: It cannot encode so many views.
    """
    checkpoint = Checkpoint.read(path)
    multi_view = checkpoint.stage_class.field_class is MultiViewField
    most = len(VIEW_SHARES) if multi_view else 1
    if not views or not all(1 <= count <= most for count in views):
        raise ConfigurationError(
            f"{', '.join(map(str, views))} views, but a field of stage {checkpoint.stage} encodes 1 to {most}",
            where=str(path),
            cure="Choose --views accordingly, or leave it out",
        )
    # A run keeps its checkpoints as RUN/checkpoints/NAME.ckpt, and they are called alike in all runs.
    name = path.resolve().parent.parent.name if path.resolve().parent.name == "checkpoints" else path.stem
    half = checkpoint.half_resolution
    if not multi_view:
        return [FieldModel(checkpoint.field_of(DensityField), name, half_resolution=half)]
    field = checkpoint.field_of(MultiViewField)
    least, furthest = checkpoint.encoder_metres
    along = [0.0, *(least + share * (furthest - least) for share in VIEW_SHARES[1:])]
    return [
        FieldModel(field, f"{name}, {count} view{'s' if count > 1 else ''}", along[:count], half_resolution=half)
        for count in views
    ]


class FieldModel:
    """A trained density field.

    Args:
        field: The field, with the weights that would be exported.
        along: Metres along the drive, from the evaluated frame, of each view that it encodes. The first stands at the
            frame itself, and only a multi-view field has others.
        half_resolution: It was trained on images of half the size, and sees such.
    """

    def __init__(
        self,
        field: DensityField | MultiViewField,
        name: str,
        along: Sequence[float] = (0.0,),
        *,
        half_resolution: bool = False,
    ) -> None:
        self.field = field.eval()
        self.half_resolution = half_resolution
        self.name = name
        self.along = tuple(along)
        self.calibration: Calibration = IDENTITY
        self.cutoffs = {PUBLISHED_RULE: PUBLISHED_CUTOFF}
        self._image = CanonicalImages(field.camera, half_resolution)

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """Encode the views of a frame; where the drive ends, those before it stand in for those after."""
        views = encoded_views(sequence, index, self.along)
        images = torch.stack([self._image(sequence, *view) for view in views])[None]
        with torch.inference_mode():
            if isinstance(self.field, MultiViewField):
                encoder_from_world = sequence.world_from_camera(index, views[0][1]).inverse()
                poses = [(encoder_from_world @ sequence.world_from_camera(*view)).matrix for view in views]
                stacked = torch.from_numpy(np.stack(poses)[None]).float()
                seen: ObservedField = self.field.observe(images, stacked)
            else:
                seen = self.field.observe(images[:, 0])
        return observed_density(seen, sequence.cameras[views[0][1]], self.field.spec)


class CanonicalImages:
    """Images of sequences as a network sees them, halved where it was trained on halved ones."""

    def __init__(self, camera: Camera, half_resolution: bool) -> None:
        self.camera = camera
        self.half_resolution = half_resolution
        self.resampler = lru_cache(maxsize=4)(self._make_resampler)

    def __call__(self, sequence: PosedSequence, index: int, name: str) -> Tensor:
        """RGB image [3, H, W] in 0..255 of a camera."""
        image = self.resampler(sequence.cameras[name])(sequence.image(index, name))
        full = torch.from_numpy(image).permute(2, 0, 1).float()
        return functional.avg_pool2d(full, 2) if self.half_resolution else full

    def _make_resampler(self, camera: Camera) -> Resampler:
        return Resampler(camera, self.camera)


def observed_density(seen: ObservedField, camera: Camera, spec: PointCodeSpec) -> Observation:
    """A field that has seen its images, as evaluations look at it: as what it is deployed as would be."""
    depth_at = None
    if isinstance(seen, SingleViewObservation) and seen.volume is not None:
        canonical = seen.field.camera
        depth = ray_depth(seen.depth_code.detach()[:, None], spec, ray_camera(canonical))[0].numpy()
        depth_at = functools.partial(said_depth, depth, canonical, camera)
    return Observation(camera, lambda points: _density(seen, points), (spec.near, spec.far), depth_at)


def encoded_views(sequence: PosedSequence, index: int, along: Sequence[float]) -> list[tuple[int, str]]:
    """Frame and camera of each view: what the reference camera sees from so many metres along the drive.

    Where a drive is too short for one of them, the function takes the frame that comes nearest to it and is not taken
    yet. Of two as near, it takes the one further along.

    Args:
        along: Metres from there of the first (ignored), second, ... view.

    Raises:
        SequenceError: The sequence has fewer frames than that.
    """
    count = len(along)
    if count > len(sequence):
        raise SequenceError(
            f"{len(sequence)} frames cannot give {count} views",
            where=sequence.name,
            cure="Take fewer --views or a longer drive",
        )
    name = reference_camera(sequence)
    travelled = metres_travelled([sequence.world_from_camera(k, name).translation for k in range(len(sequence))])
    taken: list[int] = []
    for metres in along:
        wanted = nearest_along(travelled, index, metres) if taken else index
        taken.append(min((k for k in range(len(sequence)) if k not in taken), key=lambda k: (abs(k - wanted), -k)))
    return [(k, name) for k in taken]


def _density(seen: ObservedField, points: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        parts = [
            seen.density(torch.from_numpy(points[start : start + _CHUNK])[None])[0].numpy()
            for start in range(0, len(points), _CHUNK)
        ]
    return np.concatenate([np.zeros(0, dtype=np.float32), *parts])
