"""Attention among voxels that are near each other along a space-filling curve: z-order, or Hilbert's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.sparse.voxel_set import VoxelSet

Curve = Literal["zorder", "hilbert"]
WINDOW = 1024
"""Voxels that attend to each other, as in the release of MSM."""
HEAD = 32
"""Channels of a head; narrower layers have one head."""
LAYER_SCALE = 0.1


class SerialisedAttention(nn.Module):
    """x + s · attention(norm(x)) within windows along a curve, then x + s · GEGLU(norm(x)), without biases.

    Source: the serialised attention of Point Transformer V3, as MSM's release has it; without dropout. Voxels do not
    tell where they are: what is near is in the window, and convolutions before it say how things lie.

    Args:
        width: C.
        curve: Along which voxels are ordered.
        exchanged: The curve has x and y exchanged, so that its windows end elsewhere.
    """

    def __init__(self, width: int, curve: Curve, exchanged: bool) -> None:
        super().__init__()
        self.curve, self.exchanged = curve, exchanged
        self.heads = max(1, width // HEAD)
        self.norm, self.second_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 8 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.scale, self.second_scale = (nn.Parameter(torch.full((width,), LAYER_SCALE)) for _ in range(2))

    def forward(self, x: Tensor, voxels: VoxelSet) -> Tensor:
        """Features [N, C] to features [N, C]."""
        if not len(x):
            return x
        rows = windows(voxels, self.curve, self.exchanged)
        there = rows >= 0
        taken: Tensor = self.inward(self.norm(x))[rows.clamp(min=0)]
        query, key, value = taken.view(*rows.shape, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        answer = functional.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None])
        answer = answer.transpose(1, 2).flatten(2)[there][rows[there].argsort()]
        x = x + self.scale * self.outward(answer)
        wide, gate = self.widen(self.second_norm(x)).chunk(2, dim=-1)
        deeper: Tensor = self.narrow(wide * functional.gelu(gate))
        return x + self.second_scale * deeper


def windows(voxels: VoxelSet, curve: Curve, exchanged: bool, size: int = WINDOW) -> Tensor:
    """Rows [W, at most size] of the voxels of each window, -1 at the end of what is not full.

    No window holds voxels of two scenes; those of one scene have nearly the same size.
    """
    scene, place = voxels.index[:, 0], voxels.index[:, 1:]
    if exchanged:
        place = place[:, [1, 0, 2]]
    bits = max(max(voxels.shape) - 1, 1).bit_length()
    order = ((scene << (3 * bits)) + curve_position(place, curve, bits)).argsort()
    parts = []
    for part in order.split_with_sizes(torch.bincount(scene).tolist()):
        parts += [*part.tensor_split(-(-len(part) // size))] if len(part) else []
    return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)


def curve_position(place: Tensor, curve: Curve, bits: int) -> Tensor:
    """Where cells [N, 3] of a cube of 2^bits cells along each axis come on the curve [N].

    Hilbert's curve after Skilling, "Programming the Hilbert curve" (2004), by axes to transpose.
    """
    axes = list(place.unbind(1))
    if curve == "hilbert":
        for bit in reversed(range(1, bits)):
            low = (1 << bit) - 1
            for axis in range(3):
                there = (axes[axis] >> bit & 1).bool()
                exchange = torch.where(there, 0, (axes[0] ^ axes[axis]) & low)
                axes[0] = axes[0] ^ torch.where(there, low, exchange)
                axes[axis] = axes[axis] ^ exchange if axis else axes[0]
        axes[1] = axes[1] ^ axes[0]
        axes[2] = axes[2] ^ axes[1]
        turn = torch.zeros_like(axes[0])
        for bit in range(1, bits):
            turn ^= (axes[2] >> bit & 1) * ((1 << bit) - 1)
        axes = [axis ^ turn for axis in axes]
    position = torch.zeros_like(axes[0])
    for bit in range(bits):
        for axis in range(3):
            position |= (axes[axis] >> bit & 1) << (3 * bit + 2 - axis)
    return position
