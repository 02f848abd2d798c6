"""All cells of a `SceneDecoder` as one scene: what the kernels of a robot are compared with."""

from typing import NamedTuple

import torch
from torch import Tensor

from scene_completion_ros.inference.cells import STRIDE
from scene_completion_ros.inference.ground_pixels import SEEN
from scene_completion_training.networks.pixel_head import PixelView
from scene_completion_training.networks.scene_decoder import Look, SceneDecoder


class CompletedScene(NamedTuple):
    """The predicted scene."""

    occupied: Tensor  # logits of the voxels [B, X, Y, Z]
    classes: Tensor  # logits of the classes behind "empty", of cells of `STRIDE` voxels along each axis [B, K, z, x, y]
    height: Tensor  # height of the ground in the grid, of cells of the bird's-eye view [B, x, y], metres
    deviation: Tensor  # its standard deviation [B, x, y], metres


def whole_scene(decoder: SceneDecoder, view: PixelView, look: Look, ground: Tensor | None = None) -> CompletedScene:
    """The predicted scene; `look`, `ground`: see `SceneDecoder.complete`, by default 0 where one is given it."""
    batch, (count_x, count_y, heights) = len(view.code), decoder.cells
    if decoder.sees_ground and ground is None:
        ground = torch.zeros(batch, SEEN, count_x, count_y)
    found = decoder.complete(view, look, torch.arange(len(decoder.centres)).expand(batch, -1), ground)
    fine = found.occupied.reshape(batch, heights, count_x, count_y, STRIDE, STRIDE, STRIDE)
    fine = fine.permute(0, 2, 4, 3, 5, 1, 6).reshape(batch, *(count * STRIDE for count in decoder.cells))
    size_x, size_y, size_z = decoder.grid.shape
    kinds = found.classes.reshape(batch, decoder.classes, heights, count_x, count_y)
    return CompletedScene(fine[:, :size_x, :size_y, :size_z], kinds, found.height, found.deviation)
