"""The full-size network of SceneDINO, on tiny random transformers in the layout of the real ones."""

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTModel

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_training.checkpoints import KEY, Checkpoint
from scene_completion_training.export import FoldedEncoder, feature_size
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import FeatureField, Reads
from scene_completion_training.networks.trunk import VisionTransformerTrunk
from tests.training.foundation.tiny_models import saved_model, tiny_model

CAMERA = Camera(fx=30.0, fy=30.0, cx=31.5, cy=15.5, width=64, height=32)
SIZE = (32, 64)


@pytest.fixture(scope="module", params=[8, 16], ids=["patch 8", "patch 16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINO transformer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit") / f"patch_{request.param}"
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=request.param,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("reads", ["decoder", "map", "units"])
def test_a_field_on_it_trains_and_is_folded_for_the_robot(model: Path, reads: Reads) -> None:
    """Its map is 16 / patch times as fine as the image, as published; units of density and features may be one."""
    density = DensityField(
        CAMERA, encoder=EncoderDecoder(SIZE, trunk="vision_transformer", weights=str(model), frozen_blocks=0), hidden=32
    )
    field = FeatureField(density, target_size=8, channels=4, units=6, reads=reads)
    seen = field.observe(255.0 * torch.rand(1, 3, *SIZE))
    points = torch.tensor([[[0.0, 0.0, 8.0], [1.0, 0.5, 20.0]]])
    loss = seen.density(points).sum() + field.expand(seen.features(points)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = density.encoder.trunk.network.embeddings.patch_embeddings.projection.weight.grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    finer = 16 // density.encoder.trunk.patch
    size = (SIZE[0] * finer, SIZE[1] * finer)
    assert feature_size(field, CAMERA) == size
    with torch.no_grad():
        folded = FoldedEncoder(field.eval(), field.camera)(255.0 * torch.rand(1, 3, *SIZE))
    assert folded.shape == (1, *size, 32 + (32 if reads == "units" else 6))


def test_a_checkpoint_needs_no_weights_of_its_trunk(model: Path, tmp_path: Path) -> None:
    """Only the configuration is read from the folder; the weights are in the checkpoint."""
    from scene_completion_training.viewpoint import STREET_CAMERA

    size = (STREET_CAMERA.height, STREET_CAMERA.width)
    field = DensityField(
        STREET_CAMERA, encoder=EncoderDecoder(size, trunk="vision_transformer", weights=str(model)), hidden=32
    )
    file = tmp_path / "x.ckpt"
    described = {"encoder": "vision_transformer", "encoder_weights": str(model), "hidden": 32}
    state = {f"field.{name}": value for name, value in field.state_dict().items()}
    torch.save({"state_dict": state, KEY: {"configuration": described}}, file)
    (model / "model.safetensors").rename(tmp_path / "away")
    try:
        restored = Checkpoint.read(file).field_of(DensityField)
    finally:
        (tmp_path / "away").rename(model / "model.safetensors")
    for name, value in field.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name


def test_patches_of_14_pixels_cover_16_of_the_image(tmp_path: Path) -> None:
    """DINOv2 in SceneDINO: images are resized by 14/16, and maps come as of patches of 16."""
    trunk = VisionTransformerTrunk(SIZE, weights=str(saved_model("dinov2", tmp_path / "m")))
    image = 255.0 * torch.rand(1, 3, *SIZE)
    assert [tuple(x.shape[2:]) for x in trunk(image)] == [(8, 16), (4, 8), (2, 4), (1, 2)]
    assert EncoderDecoder(SIZE, trunk="vision_transformer", weights=str(tmp_path / "m"))(image).shape == (1, 256, *SIZE)


def test_patches_of_other_sizes_are_refused(tmp_path: Path) -> None:
    tiny_model("vit", patch_size=4).save_pretrained(tmp_path / "m")
    with pytest.raises(ConfigurationError, match="patches of 4 pixels"):
        VisionTransformerTrunk(SIZE, weights=str(tmp_path / "m"))
