"""Backbones give what a plain call of the same model gives, cell by cell; files that cannot be opened are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.model_files import weight_files
from scene_completion_training.stages.feature_field import FeatureSettings, feature_targets
from tests.training.foundation.tiny_models import BLOCKS, KINDS, WIDTH, tiny_model

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def images(height: int, width: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def plain_call(network: Any, pixels: Tensor, layer: int) -> Tensor:
    """Hidden state through the final LayerNorm, as maps [B, D, h, w] without class and register tokens."""
    normalised = (pixels / 255.0 - MEAN[:, None, None]) / DEVIATION[:, None, None]
    options = {"interpolate_pos_encoding": True} if isinstance(network, transformers.ViTModel) else {}
    with torch.no_grad():
        states = network(pixel_values=normalised, output_hidden_states=True, **options).hidden_states
        tokens = (network.norm if hasattr(network, "norm") else network.layernorm)(states[layer])
    patch = network.config.patch_size
    height, width = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    extra = 1 + getattr(network.config, "num_register_tokens", 0)
    assert tokens.shape[1] == height * width + extra
    return tokens[:, extra:].transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.parametrize("kind", KINDS)
def test_any_hidden_state_of_a_rectangular_image_is_that_of_a_plain_call(kind: str, folders: dict[str, Path]) -> None:
    network = tiny_model(kind)
    patch = network.config.patch_size
    given = images(3 * patch, 5 * patch)
    for layer in range(BLOCKS + 1):
        expected = plain_call(network, given.float(), layer)
        for index in (layer, layer - BLOCKS - 1):
            backbone = Backbone(folders[kind], index)
            assert (backbone.layer, backbone.dim, backbone.type) == (layer, WIDTH, kind)
            found = backbone.features(given, patch)
            assert found.shape == (2, WIDTH, 3, 5)
            assert not found.requires_grad
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert Backbone(folders[kind]).layer == BLOCKS


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_follows_from_its_cell(kind: str, folders: dict[str, Path]) -> None:
    """Before the first block no token knows of another; all edges stay alone because the resizing blurs them."""
    backbone, cell = Backbone(folders[kind], 0), 24
    plain = torch.full((1, 3, 3 * cell + 5, 4 * cell + 9), 100.0)
    marked = plain.clone()
    marked[..., 2 * cell + 4 : 3 * cell - 4, cell + 4 : 2 * cell - 4] = 200.0
    difference = (backbone.features(marked, cell) - backbone.features(plain, cell)).abs().amax(dim=1)[0]
    assert difference.shape == (4, 5)
    assert difference[2, 1] > 1e-2
    difference[2, 1] = 0.0
    assert difference.max() < 1e-4


@pytest.mark.parametrize(
    ("content", "mean", "deviation"),
    [
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}, (127.5, 102.0, 76.5), (127.5, 63.75, 51.0)),
        ({"do_normalize": False}, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
        ({"do_rescale": False, "image_mean": [1, 2, 3], "image_std": [4, 5, 6]}, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
        ({}, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_colours_are_normalised_by_the_preprocessor(
    content: dict[str, Any], mean: Any, deviation: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["vit"], tmp_path / "model"))
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    backbone = Backbone(folder)
    assert backbone.normalisation.mean == pytest.approx(mean)
    assert backbone.normalisation.deviation == pytest.approx(deviation)
    given = images(24, 40).float()
    same = (given - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    as_imagenet = (same * DEVIATION[:, None, None] + MEAN[:, None, None]) * 255.0
    torch.testing.assert_close(
        backbone.features(given, 8), Backbone(folders["vit"]).features(as_imagenet, 8), atol=1e-4, rtol=1e-3
    )


def test_a_hub_model_is_downloaded_without_pickles(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        assert name == "someone/dino"
        wanted.extend(allow_patterns)
        return str(folders["vit"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Backbone("someone/dino").identity.name == "someone/dino"
    assert wanted and all(pattern.endswith((".json", ".safetensors")) for pattern in wanted)

    def fail(name: str, *, allow_patterns: list[str]) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ConfigurationError, match=r"someone/dino: neither a folder.*\(no network\)") as caught:
        Backbone("someone/dino")
    assert "FOLDER" not in str(caught.value)  # which no training has named
    with pytest.raises(ConfigurationError, match=r"in a training with features\.model=FOLDER; or check name"):
        feature_targets(FeatureSettings(model="someone/dino"))


def lacking(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if "layer.1.norm1" not in name}


def narrow(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[:-1].contiguous() if value.ndim else value for name, value in weights.items()}


CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
UNLOADABLE, NOT_NORMALISED = "cannot be loaded as Dinov2Model", r"preprocessor_config\.json: no mean and deviation"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-100], UNLOADABLE),
        (lacking, "2 weights are missing or of another shape, such as .*layer.1.norm1.bias"),
        (narrow, "weights are missing or of another shape"),
        ({CONFIG: {"hidden_act": "none such", "mlp_ratio": "x"}}, UNLOADABLE),
        *(
            ({CONFIG: {"model_type": kind}}, r"is not supported.*dinov3_vit")
            for kind in ("dinov3_convnext", "clip", None, ["vit"])
        ),
        ({CONFIG: {"num_channels": 4}}, "takes 4 channels"),
        ({CONFIG: None}, r"no config\.json"),
        ({PREPROCESSOR: {"image_std": [0, 1, 1]}}, NOT_NORMALISED),
        ({PREPROCESSOR: {"image_mean": [0.5]}}, NOT_NORMALISED),
        ({PREPROCESSOR: {"image_mean": "grey"}}, NOT_NORMALISED),
        ({PREPROCESSOR: {"rescale_factor": 0}}, NOT_NORMALISED),
    ],
)
def test_damaged_and_other_models_are_refused(
    change: Any, message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["dinov2"], tmp_path / "model"))
    weights = folder / "model.safetensors"
    if change in (lacking, narrow):
        save_file(change(load_file(weights)), weights)
    elif callable(change):
        weights.write_bytes(change(weights.read_bytes()))
    else:
        ((name, content),) = change.items()
        known = json.loads((folder / CONFIG).read_text()) if name == CONFIG else {}
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_text(json.dumps(known | content))
    with pytest.raises((BundleError, ConfigurationError), match=message):
        Backbone(folder)


@pytest.mark.parametrize(
    "named", [{}, [], {"a": "model-2.safetensors"}, {"a": "x" * 9000}, {"a": "../model-1"}, {"a": []}]
)
def test_parts_that_are_not_there_are_named(named: object, tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").touch()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": []}}))
    assert weight_files(str(tmp_path)) == [tmp_path / "model-1.safetensors"]
    index.write_text(json.dumps({"weight_map": named}))
    with pytest.raises(BundleError, match=r"index\.json: names .*, which are not there"):
        weight_files(str(tmp_path))
