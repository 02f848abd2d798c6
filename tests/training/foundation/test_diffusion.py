"""States of a tiny Stable Diffusion with random weights; where diffusers is installed."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.foundation.teachers import open_teacher
from tests.training.foundation.tiny_models import _save_clip_tokenizer


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny pipeline, as diffusers writes them."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    blocks = {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 1, "norm_num_groups": 8}
    diffusers.UNet2DConditionModel(cross_attention_dim=16, attention_head_dim=8, **blocks).save_pretrained(
        folder / "unet"
    )
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = diffusers.AutoencoderKL(
        down_block_types=down, up_block_types=up, block_out_channels=(8,) * 4, norm_num_groups=4
    )
    vae.save_pretrained(folder / "vae")
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir()
    tokens = _save_clip_tokenizer(folder / "tokenizer")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    CLIPTextModel(CLIPTextConfig(max_position_embeddings=77, **sizes, **tokens)).save_pretrained(
        folder / "text_encoder"
    )
    return folder


def test_three_blocks_on_the_way_up_stand_side_by_side_in_each_cell(pipeline: Path) -> None:
    teacher = open_teacher(f"diffusion:{pipeline}")
    images = 255 * torch.rand(2, 3, 60, 80)
    found = teacher.features(images, 4)
    assert found.shape == (2, 64 + 64 + 64, 15, 20) and teacher.dim == 192
    assert torch.equal(teacher.features(images, 4), found)  # the noise is not drawn anew
    torch.testing.assert_close(teacher.features(images[1:], 4), found[1:], rtol=1e-3, atol=1e-3)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert len(teacher.identity.weights) > 0


def test_what_is_no_pipeline_is_refused(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be loaded as a Stable Diffusion"):
        open_teacher(f"diffusion:{tmp_path}")
    with pytest.raises(ConfigurationError, match="no choice of a layer"):
        open_teacher(f"diffusion:{pipeline}", 3)
