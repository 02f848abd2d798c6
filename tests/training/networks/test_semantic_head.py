"""The head of unsupervised semantics and its buffer."""

from __future__ import annotations

import torch

from scene_completion_training.networks.semantic_head import CropBuffer


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_buffer_forgets_the_oldest_and_finds_the_nearest() -> None:
    buffer = CropBuffer(4, 2, 3, neighbours=1)
    axes = torch.eye(3)
    assert buffer.partners(axes[:1, None].expand(1, 2, 3), _generator()) is None
    for axis in axes:
        buffer.push(axis.expand(1, 2, 3))
    assert int(buffer.filled) == 3
    looked_up = (axes[1] + 0.1 * axes[2]).expand(1, 2, 3)
    partners = buffer.partners(looked_up, _generator())
    assert partners is not None
    assert torch.equal(partners.similar[0, 0], axes[1])
    # An empty row is never a random partner.
    assert all(buffer.partners(looked_up, _generator(seed)).random.norm(dim=-1).min() > 0.9 for seed in range(20))  # type: ignore[union-attr]
    buffer.push(-axes[:2, None].expand(2, 2, 3))  # one slot was free: the first axis leaves
    partners = buffer.partners(axes[0].expand(1, 2, 3), _generator())
    assert partners is not None and not torch.equal(partners.similar[0, 0], axes[0])
