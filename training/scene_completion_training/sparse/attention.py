"""Attention among voxels that are near each other along a space-filling curve, the z-order."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.sparse.voxel_set import VoxelSet

WINDOW = 1024  # voxels that attend to each other, as in the release of MSM
HEAD = 32  # channels of a head; narrower layers have one head
LAYER_SCALE = 0.1


class SerialisedAttention(nn.Module):
    """x + s · attention(norm(x)) within windows along the curve, then x + s · GEGLU(norm(x)), without biases.

    Source: the serialised attention of Point Transformer V3, as MSM's release has it; without dropout and Hilbert's
    curve. Voxels do not tell where they are: what is near is in the window, and convolutions say how things lie.

    `width`: C; `exchanged`: the curve has x and y exchanged, so that its windows end elsewhere.
    """

    def __init__(self, width: int, exchanged: bool) -> None:
        super().__init__()
        self.exchanged = exchanged
        self.heads = math.gcd(width, max(1, width // HEAD))
        self.norm, self.second_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 8 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.scale, self.second_scale = (nn.Parameter(torch.full((width,), LAYER_SCALE)) for _ in range(2))

    def forward(self, x: Tensor, voxels: VoxelSet) -> Tensor:
        """Features [N, C] to features [N, C]."""
        if not len(x):
            return x
        rows = windows(voxels, self.exchanged)
        there = rows >= 0
        taken: Tensor = self.inward(self.norm(x))[rows.clamp(min=0)]
        query, key, value = taken.view(*rows.shape, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        answer = functional.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None])
        answer = answer.transpose(1, 2).flatten(2)[there][rows[there].argsort()]
        x = x + self.scale * self.outward(answer)
        wide, gate = self.widen(self.second_norm(x)).chunk(2, dim=-1)
        deeper: Tensor = self.narrow(wide * functional.gelu(gate))
        return x + self.second_scale * deeper


def windows(voxels: VoxelSet, exchanged: bool, size: int = WINDOW) -> Tensor:
    """Rows [W, at most size] of the voxels of each window, -1 at the end of what is not full.

    No window holds voxels of two scenes; those of one scene have nearly the same size.
    """
    scene, place = voxels.index[:, 0], voxels.index[:, 1:]
    bits = max(max(voxels.shape) - 1, 1).bit_length()
    order = ((scene << (3 * bits)) + z_order(place[:, [1, 0, 2]] if exchanged else place, bits)).argsort()
    parts: list[Tensor] = []
    for part in order.split_with_sizes(torch.bincount(scene).tolist()):
        parts += [*part.tensor_split(-(-len(part) // size))] if len(part) else []
    return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)


def z_order(place: Tensor, bits: int) -> Tensor:
    """Where cells [N, 3] of a cube of 2^bits cells along each axis come on the curve [N]: their bits interleaved."""
    position = torch.zeros_like(place[:, 0])
    for bit in range(bits):
        for axis in range(3):
            position |= (place[:, axis] >> bit & 1) << (3 * bit + 2 - axis)
    return position
