"""The trunk of Depth Anything, on a tiny random network in the layout of the real one."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import DepthAnythingForDepthEstimation

from scene_completion_ros.geometry import Camera
from scene_completion_training.export import encoder_onnx, feature_size
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.trunk import DepthAnythingTrunk
from tests.training.foundation.tiny_models import saved_depth_model

CAMERA = Camera(fx=30.0, fy=30.0, cx=31.5, cy=15.5, width=64, height=32)
SIZE = (32, 64)
PATCHES = (2, 5)
"""32×64 pixels are 2.3×4.6 patches of 14."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_depth_model(tmp_path_factory.mktemp("depth") / "tiny")


def _trunk(model: Path, **options: bool | int) -> DepthAnythingTrunk:
    return DepthAnythingTrunk(weights=str(model), **options)  # type: ignore[arg-type]


def test_its_depth_is_that_of_the_network(model: Path) -> None:
    trunk = _trunk(model)
    image = 255.0 * torch.rand(1, 3, *SIZE)
    network = DepthAnythingForDepthEstimation.from_pretrained(model)
    resized = torch.nn.functional.interpolate(trunk.normalised(image), [14 * n for n in PATCHES], mode="bilinear")
    with torch.no_grad():
        expected = network(pixel_values=resized).predicted_depth[:, None]
        fused, depth = trunk(image)
    assert fused.shape == (1, 12, 16, 32) and depth.shape == (1, 1, 16, 32)
    expected = torch.nn.functional.interpolate(expected, (16, 32), mode="bilinear")
    torch.testing.assert_close(depth, expected, atol=1e-5, rtol=1e-4)


def test_a_field_on_it_learns_depth_and_is_exported(model: Path) -> None:
    encoder = EncoderDecoder(SIZE, channels=24, trunk="depth_anything", weights=str(model), frozen_blocks=0)
    field = DensityField(CAMERA, encoder=encoder, hidden=32)
    image = 255.0 * torch.rand(2, 3, *SIZE)
    seen = field.observe(image)
    features, code = seen.hidden_map, seen.depth_code
    assert features.shape == (2, 32, 16, 32) and code.shape == (2, 16, 32)
    loss = features.square().sum() + code.square().sum() + encoder.decoder(encoder.trunk_maps(image)).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert isinstance(encoder.trunk, DepthAnythingTrunk)
    for part in (encoder.trunk.backbone.embeddings, encoder.trunk.neck, encoder.trunk.head):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    assert feature_size(field, CAMERA) == (16, 32)
    session = onnxruntime.InferenceSession(encoder_onnx(field.eval(), CAMERA), providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {"image": image[:1].numpy()})
    expected = features[:1].detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(exported, expected, atol=5e-3 * np.abs(expected).max())  # weights are stored as halves


@pytest.mark.parametrize("frozen", [0, 1, 2, 3, 4])
def test_what_frozen_blocks_make_can_be_kept(model: Path, frozen: int) -> None:
    trunk = _trunk(model, frozen_blocks=frozen)
    image = 255.0 * torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        expected = trunk(image)
        found = trunk.maps_of_fixed(trunk.fixed(image), SIZE)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    learning = [name for name, value in trunk.backbone.named_parameters() if value.requires_grad]
    assert ("layernorm.weight" in learning) == (frozen == 0)
    assert any("layer.3" in name for name in learning) == (frozen < 4)


@pytest.mark.parametrize("prefix", ["", "trunk."])
def test_weights_of_other_versions_of_transformers_fit(model: Path, prefix: str) -> None:
    """Attention was `attention.attention.query` up to 5.17, and is `attention.q_proj`."""
    trunk = _trunk(model)
    own, names = trunk.state_dict(), {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
    older = {}
    for name, values in own.items():
        for now, before in names.items():
            name = name.replace(f".attention.{now}.", f".attention.attention.{before}.")
        older[prefix + name.replace(".attention.o_proj.", ".attention.output.dense.")] = values + 1.0
    assert older.keys() != {prefix + name for name in own}
    holder = torch.nn.ModuleDict({"trunk": trunk}) if prefix else trunk
    holder.load_state_dict(older)
    for name, values in _trunk(model).state_dict().items():
        torch.testing.assert_close(trunk.state_dict()[name], values + 1.0)
