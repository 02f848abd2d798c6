"""Trunks that are published transformers, on tiny random networks in the layout of the real ones."""

from pathlib import Path

import pytest
import torch
from transformers import DepthAnythingForDepthEstimation

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.trunk import DepthAnythingTrunk, VisionTransformerTrunk
from tests.training.foundation.tiny_models import saved_depth_model, saved_model, tiny_model
from tests.training.small_trainings import save_checkpoint

CAMERA = Camera(fx=30.0, fy=30.0, cx=31.5, cy=15.5, width=64, height=32)
SIZE = (32, 64)


def test_a_checkpoint_needs_no_weights_of_its_trunk(tmp_path: Path) -> None:
    """Only the configuration is read from the folder; the weights are in the checkpoint."""
    model = saved_model("vit", tmp_path / "vit")
    encoder = EncoderDecoder(SIZE, trunk="vision_transformer", weights=str(model))
    field = DensityField(CAMERA, encoder=encoder, hidden=32)
    file = tmp_path / "x.ckpt"
    described = {"encoder": "vision_transformer", "encoder_weights": str(model), "hidden": 32}
    save_checkpoint(file, field, "single_view", camera={"width": 64, "height": 32}, **described)
    (model / "model.safetensors").unlink()
    restored = Checkpoint.read(file).field_of(DensityField)
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


PATCHES = (2, 5)
"""32×64 pixels are 2.3×4.6 patches of 14."""


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_depth_model(tmp_path_factory.mktemp("depth") / "tiny")


def _trunk(depth_model: Path, **options: bool | int) -> DepthAnythingTrunk:
    return DepthAnythingTrunk(weights=str(depth_model), **options)  # type: ignore[arg-type]


def test_it_fuses_what_the_network_fuses(depth_model: Path) -> None:
    """Whichever blocks are frozen. The network doubles the size of its map, which here has its own."""
    image = 255.0 * torch.rand(1, 3, *SIZE)
    network = DepthAnythingForDepthEstimation.from_pretrained(depth_model)
    resized = torch.nn.functional.interpolate(
        _trunk(depth_model).normalised(image), [14 * n for n in PATCHES], mode="bilinear"
    )
    for frozen in (0, 2, 3, 4):
        trunk = _trunk(depth_model, frozen_blocks=frozen)
        with torch.no_grad():
            states = network.backbone(resized).feature_maps
            expected = network.neck(list(states), *PATCHES)[-1]
            fused, tokens = trunk.maps(trunk.states(image), *PATCHES)
        assert fused.shape == (1, 12, 4 * PATCHES[0], 4 * PATCHES[1])
        doubled = torch.nn.functional.interpolate(fused, scale_factor=2.0, mode="bilinear", align_corners=True)
        torch.testing.assert_close(doubled, expected, atol=1e-5, rtol=1e-4)
        last = states[-1][:, 1:].transpose(1, 2).reshape(tokens.shape)
        torch.testing.assert_close(tokens, last, atol=1e-5, rtol=1e-4)


def test_no_more_blocks_are_frozen_than_there_are(depth_model: Path) -> None:
    with pytest.raises(ConfigurationError, match="5 frozen of 4 blocks"):
        _trunk(depth_model, frozen_blocks=5)


@pytest.mark.parametrize("frozen", [0, 3])
def test_frozen_blocks_take_the_norm_behind_them_along(depth_model: Path, frozen: int) -> None:
    learning = [
        name for name, value in _trunk(depth_model, frozen_blocks=frozen).named_parameters() if value.requires_grad
    ]
    assert ("backbone.layernorm.weight" in learning) == (frozen == 0)
    assert any("layer.3" in name for name in learning) and any("layer.2" in name for name in learning) == (frozen == 0)


@pytest.mark.parametrize("prefix", ["", "trunk."])
def test_weights_of_other_versions_of_transformers_fit(depth_model: Path, prefix: str) -> None:
    """Attention was `attention.attention.query` up to 5.17, and is `attention.q_proj`."""
    trunk = _trunk(depth_model)
    own, names = trunk.state_dict(), {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
    older = {}
    for name, values in own.items():
        for now, before in names.items():
            name = name.replace(f".attention.{now}.", f".attention.attention.{before}.")
        older[prefix + name.replace(".attention.o_proj.", ".attention.output.dense.")] = values + 1.0
    assert older.keys() != {prefix + name for name in own}
    holder = torch.nn.ModuleDict({"trunk": trunk}) if prefix else trunk
    holder.load_state_dict(older)
    for name, values in _trunk(depth_model).state_dict().items():
        torch.testing.assert_close(trunk.state_dict()[name], values + 1.0)
