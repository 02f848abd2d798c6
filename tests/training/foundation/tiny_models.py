"""Tiny models with random weights, saved as the published ones are, and a stand-in whose features are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional

BLOCKS, WIDTH = 3, 32
_SMALL = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTModel", "ViTConfig", {"intermediate_size": 64, "image_size": 32, "patch_size": 8}),
    "dinov2": ("Dinov2Model", "Dinov2Config", {"mlp_ratio": 2, "image_size": 42, "patch_size": 14}),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {"mlp_ratio": 2, "image_size": 42, "patch_size": 14, "num_register_tokens": 4},
    ),
    "dinov3_vit": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {"intermediate_size": 64, "image_size": 64, "patch_size": 16, "num_register_tokens": 4},
    ),
}
"""Model type -> class, class of its configuration, and what is particular to it."""


def tiny_model(kind: str, **changes: int) -> Any:
    """A model whose weights are all random, also those that start at zero or one."""
    network_class, config_class, options = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**_SMALL, **options, **changes})
    network = getattr(transformers, network_class)(config).eval()
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return network


def saved_model(kind: str, folder: Path, **options: Any) -> Path:
    """Folder of a tiny model as of `save_pretrained`."""
    tiny_model(kind).save_pretrained(folder, **options)
    return folder


def saved_depth_model(folder: Path) -> Path:
    """Folder of a tiny network of Depth Anything as of `save_pretrained`."""
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, reassemble_hidden_size=16, neck_hidden_sizes=[4, 6, 8, 10],
        fusion_hidden_size=12, head_hidden_size=5,
    )  # fmt: skip
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    return folder


class PatchMeans:
    """Stands for a backbone: the features of a token are the mean colour of its cell."""

    dim = 3

    def features(self, images: Tensor, cell: int) -> Tensor:
        height, width = images.shape[-2:]
        padding = (0, -width % cell, 0, -height % cell)
        return functional.avg_pool2d(functional.pad(images.float(), padding, mode="replicate"), cell)
