"""What a diffusion model's decoder has in its blocks, the same every time."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.foundation.diffusion import DiffusionTeacher
from tests.training.foundation.tiny_models import saved_diffusion_model

diffusers = pytest.importorskip("diffusers")
CHANNELS = (16, 16, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_diffusion_model(tmp_path_factory.mktemp("models") / "diffusion")


def images(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


def test_taps_are_those_of_a_plain_call(folder: Path) -> None:
    """Composed of the pipeline's own parts, with its own scheduler's noise."""
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=diffusers.PNDMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    given = images(32, 64)
    seen: list[Tensor] = []
    for block in pipeline.unet.up_blocks[:3]:
        block.register_forward_hook(lambda *call: seen.append(call[-1]))
    with torch.no_grad():
        sentence, _ = pipeline.encode_prompt("", "cpu", 1, do_classifier_free_guidance=False)
        latents = 0.18215 * pipeline.vae.encode(given / 127.5 - 1.0).latent_dist.mean
        noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).expand_as(latents)
        noisy = pipeline.scheduler.add_noise(latents, noise, torch.tensor([100]))
        pipeline.unet(noisy, 100, encoder_hidden_states=sentence.expand(2, -1, -1))
    assert [tap.shape[1] for tap in seen] == list(CHANNELS)

    teacher = DiffusionTeacher(folder)
    found = teacher.features(given, 16)
    assert found.shape == (2, teacher.dim, 2, 4)
    assert teacher.dim == sum(CHANNELS)
    for tap, part in zip(seen, found.split(CHANNELS, dim=1), strict=True):
        expected = functional.interpolate(tap, (2, 4), mode="bilinear", antialias=True)
        torch.testing.assert_close(part, expected, atol=1e-4, rtol=1e-3)


def test_the_same_image_has_the_same_features_in_any_company(folder: Path) -> None:
    """Defect S8 of the released code: its features were others at every call."""
    teacher = DiffusionTeacher(folder)
    given = images(32, 64)
    found = teacher.features(given, 8)
    torch.testing.assert_close(teacher.features(given, 8), found, atol=0.0, rtol=0.0)
    torch.testing.assert_close(DiffusionTeacher(folder).features(given[1:], 8), found[1:], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(DiffusionTeacher(folder, seed=1).features(given, 8), found, atol=1e-3)
    assert not torch.allclose(DiffusionTeacher(folder, timestep=500).features(given, 8), found, atol=1e-3)


def test_any_size_is_brought_to_whole_patches(folder: Path) -> None:
    assert DiffusionTeacher(folder).features(images(45, 70), 16).shape == (2, sum(CHANNELS), 3, 5)


def test_identity_says_what_the_features_follow_from(folder: Path) -> None:
    identity = DiffusionTeacher(folder, timestep=50, seed=3).identity
    assert sorted(identity.weights) == [
        "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert identity.settings == {"timestep": "50", "seed": "3"}
    assert (identity.text_encoder, identity.dim) == ("", sum(CHANNELS))


def test_what_cannot_be_used_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no timestep 1000.*0 to 999"):
        DiffusionTeacher(folder, timestep=1000)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="cannot be loaded as UNet2DConditionModel"):
        DiffusionTeacher(copy)
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(BundleError, match=r"no unet/diffusion_pytorch_model\.safetensors"):
        DiffusionTeacher(copy)
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ConfigurationError, match="FluxPipeline is not supported"):
        DiffusionTeacher(copy)


def test_without_diffusers_the_error_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigurationError, match="needs the package diffusers.*pip install diffusers"):
        DiffusionTeacher(folder)
