"""Patches of image towers lie in the space of the sentences of the same model."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from scene_completion_training.foundation.image_text import ClipTeacher, SiglipTeacher
from scene_completion_training.foundation.text_encoder import TextEncoder
from tests.training.foundation.tiny_models import WIDTH, saved_clip, saved_siglip


def images(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module", params=["siglip2", "naflex"])
def siglip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_siglip(tmp_path_factory.mktemp("models") / request.param, request.param)


def test_clip_patches_are_values_of_the_last_attention(tmp_path: Path) -> None:
    """Computed once more with the published weights by their names."""
    clip = saved_clip(tmp_path / "clip")
    weights = load_file(clip / "model.safetensors")
    network = transformers.CLIPModel.from_pretrained(clip).eval()
    pixels = (images(24, 40) / 255.0 - torch.tensor([0.48, 0.46, 0.41])[:, None, None]) / torch.tensor(
        [0.27, 0.26, 0.28]
    )[:, None, None]
    with torch.no_grad():
        vision = network.vision_model(pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    states, block = vision.hidden_states[1], "vision_model.encoder.layers.1."  # what goes into the second of two

    def normalised(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    values = linear(
        linear(normalised(states, f"{block}layer_norm1"), f"{block}self_attn.v_proj"), f"{block}self_attn.out_proj"
    )
    expected = normalised(values, "vision_model.post_layernorm") @ weights["visual_projection.weight"].T
    found = ClipTeacher(clip).features(images(24, 40), 8)
    assert found.shape == (2, 20, 3, 5)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected[:, 1:], atol=1e-4, rtol=1e-3)


def test_a_single_siglip_patch_is_the_whole_image(siglip: Path) -> None:
    """Where there is one patch, the pooling sees nothing else: its token is the published vector of the image."""
    teacher = SiglipTeacher(siglip)
    image = images(8, 8)
    pixels = image / 127.5 - 1.0
    network = transformers.AutoModel.from_pretrained(siglip).eval()
    given: dict[str, Any] = {"pixel_values": pixels, "interpolate_pos_encoding": True}
    if siglip.name == "naflex":
        given = {
            "pixel_values": pixels.permute(0, 2, 3, 1).reshape(2, 1, -1),
            "pixel_attention_mask": torch.ones(2, 1),
            "spatial_shapes": torch.ones(2, 2, dtype=torch.long),
        }
    with torch.no_grad():
        expected = network.get_image_features(**given).pooler_output
    found = teacher.features(image, 8)
    assert found.shape == (2, WIDTH, 1, 1)
    torch.testing.assert_close(found[..., 0, 0], expected, atol=1e-4, rtol=1e-3)
    assert teacher.identity.text_encoder_sha256 == TextEncoder(siglip).sha256
