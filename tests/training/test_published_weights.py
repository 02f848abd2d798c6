"""Public checkpoints: names and shapes of the reference's layer tables, and what the public networks compute.

A test cannot have the published files: files with their names and shapes are made here, with values that follow from
the names. The expected numbers were computed with an implementation of the public networks under their own names.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration, read_configuration
from scene_completion_training.networks.density_field import DensityField, MultiViewField, sample_map
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.published_weights import import_checkpoint
from tests import official_layouts as layouts
from tests.training.foundation.tiny_models import WIDTH, tiny_model

Shapes: TypeAlias = dict[str, tuple[int, ...]]
SMALL = [f"camera.{name}" for name in ("width=96", "height=64", "fx=37.7", "fy=65", "cx=47.5", "cy=31.5")]
BLOCKS = 12  # of a transformer, whose published width is 768
POINTS = torch.tensor(
    [[0.3, -0.2, 4.0], [-2.0, 0.5, 9.0], [3.0, 1.2, 20.0], [0.1, 0.4, 60.0], [-1.0, 0.2, 3.1], [3.6, 0.1, 3.05]]
)
IMAGES = 255.0 * torch.from_numpy(np.random.default_rng(0).random((1, 2, 3, 64, 96), np.float32))


def layer(name: str, inputs: int, outputs: int, *size: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, *size)} | ({f"{name}.bias": (outputs,)} if bias else {})


def normalised(name: str, channels: int, *, batch: bool = True) -> Shapes:
    kinds = ("weight", "bias", "running_mean", "running_var") if batch else ("weight", "bias")
    return {f"{name}.{kind}": (channels,) for kind in kinds} | ({f"{name}.num_batches_tracked": ()} if batch else {})


def prefixed(prefix: str, *parts: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for part in parts for name, shape in part.items()}


def head(name: str, inputs: int, width: int, outputs: int) -> Shapes:
    return prefixed(name, layer("lin_in", inputs, width), layer("lin_out", width, outputs))


def resnet() -> Shapes:
    """ResNet-50 as torchvision names it."""
    shapes, inputs = layer("conv1", 3, 64, 7, 7, bias=False) | normalised("bn1", 64) | layer("fc", 2048, 1000), 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 1):
        for block in range(blocks):
            for number, (a, b, size) in enumerate(((inputs, width, 1), (width, width, 3), (width, 4 * width, 1)), 1):
                parts = layer(f"conv{number}", a, b, size, size, bias=False), normalised(f"bn{number}", b)
                shapes |= prefixed(f"layer{stage}.{block}", *parts)
            if block == 0:
                parts = layer("0", inputs, 4 * width, 1, 1, bias=False), normalised("1", 4 * width)
                shapes |= prefixed(f"layer{stage}.0.downsample", *parts)
            inputs = 4 * width
    return shapes


def convolutional(*heads: Shapes, out: int = 64) -> dict[str, Tensor]:
    """Weights with the encoder of Behind the Scenes, whose decoder is that of Monodepth2 with four scales."""
    widths = ((2048, 256), (1280, 256), (256, 128), (640, 128), (128, 64), (320, 64), (64, out), (out + 64, out))
    widths = (*widths, (out, out), (out, out), (out, out), (out, out), (64, out), (128, out))
    decoder = [layer(f"{number}.conv.conv", a, b, 3, 3) for number, (a, b) in enumerate(widths[:10])]
    decoder += [layer(f"{10 + number}.conv", a, b, 3, 3) for number, (a, b) in enumerate(widths[10:])]
    shapes = prefixed("encoder.encoder.encoder", resnet()) | prefixed("encoder.decoder.decoder", *decoder)
    return values(shapes | {name: shape for part in heads for name, shape in part.items()})


def transformer() -> Shapes:
    """As timm names it, of images of 64x96 in patches of 8."""
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 97, WIDTH)}
    shapes |= layer("patch_embed.proj", 3, WIDTH, 8, 8) | normalised("norm", WIDTH, batch=False)
    for block in range(BLOCKS):
        norms = (normalised(f"norm{number}", WIDTH, batch=False) for number in (1, 2))
        attention = layer("attn.qkv", WIDTH, 3 * WIDTH), layer("attn.proj", WIDTH, WIDTH)
        shapes |= prefixed(
            f"blocks.{block}", *norms, *attention, layer("mlp.fc1", WIDTH, 64), layer("mlp.fc2", 64, WIDTH)
        )
    return shapes


def pyramid() -> Shapes:
    """SceneDINO's decoder."""
    shapes: Shapes = {}
    for level, width in enumerate((64, 64, 128, 256)):
        shapes |= layer(f"reassemble_blocks.projects.{level}", WIDTH, width, 1, 1)
        shapes |= layer(f"convs.{level}", width, 256, 3, 3, bias=False)
        shapes |= layer(f"fusion_blocks.{level}.project", 256, 256, 1, 1)
        for unit in (1, 2) if level else (2,):
            convolutions = (layer(f"conv{number}", 256, 256, 3, 3) for number in (1, 2))
            shapes |= prefixed(f"fusion_blocks.{level}.res_conv_unit{unit}", *convolutions)
    for level, (width, size) in {0: (64, 4), 1: (64, 2), 3: (256, 3)}.items():
        shapes |= layer(f"reassemble_blocks.resize_layers.{level}", width, width, size, size)
    for name, size in {"project": 3, **{f"output_head.head_modules.{k}": of for k, of in enumerate((3, 2, 3))}}.items():
        shapes |= layer(name, 256, 256, size, size)
    return shapes


def values(shapes: Shapes) -> dict[str, Tensor]:
    """Values of weights, which follow from their names."""
    weights = {}
    for name, shape in shapes.items():
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            value = np.zeros((), np.int64)
        elif name.endswith(("cls_token", "pos_embed")):
            value = generator.normal(0.0, 0.5, shape)
        elif len(shape) > 1:
            value = generator.normal(0.0, np.prod(shape[1:]) ** -0.5, shape)
        elif name.endswith(("weight", "running_var")):
            value = generator.uniform(0.8, 1.4, shape)
        else:
            value = generator.normal(0.0, 0.1, shape)
        weights[name] = torch.from_numpy(value if value.dtype == np.int64 else value.astype(np.float32))
    return weights


def settings(name: str, *more: str) -> Configuration:
    return read_configuration(CONFIGS / "full_size" / f"{name}.yaml", [*SMALL, *more], Configuration)


def saved(path: Path, weights: Mapping[str, Tensor], prefix: str = "renderer.net.", **more: Any) -> Path:
    torch.save({"model": {f"{prefix}{name}": value for name, value in weights.items()}, **more}, path)
    return path


SEVERAL = head("heads.multiviewhead3.mlp", 103, 128, 17) | head("heads.multiviewhead3.mlp2", 16, 16, 1)


def close(found: Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "densities"),
    [
        ("bts_kitti_360", (0.67439, 0.97222, 1.09792, 0.80514, 0.6718, 0.61014)),
        ("kdbts_kitti_360", (0.49749, 0.74702, 0.69946, 0.8196, 0.58, 0.51116)),
    ],
)
def test_a_field_of_one_view_is_the_public_network(name: str, densities: tuple[float, ...], tmp_path: Path) -> None:
    heads = [head("mlp_coarse", 103, 64, 1)]
    if name.startswith("kdbts"):
        heads = [head("heads.singleviewhead", 103, 64, 1), SEVERAL]
    weights = convolutional(*heads) | {"code_xyz._freqs": torch.ones(1, 12, 1)}
    configuration = settings(name)
    file = saved(tmp_path / "public.pt", weights, optimizer={"step": 3})
    others = import_checkpoint(file, tmp_path / "own.ckpt", configuration)
    assert all(other.startswith("heads.multiviewhead3.") for other in others)
    stored = Checkpoint.read(tmp_path / "own.ckpt")
    assert stored.record["imported"]["file"] == "public.pt" and stored.stage == configuration.stage
    with torch.no_grad():
        seen = stored.field_of(DensityField).observe(IMAGES[:, 0])
    close(seen.density(POINTS[None])[0], *densities)


def test_the_network_of_realestate10k_is_the_public_one(tmp_path: Path) -> None:
    """Its head, computed as pixelNeRF's: a residual block, and the distance in place of the depth."""
    blocks = (layer(f"blocks.0.fc_{number}", 32, 32) for number in (0, 1))
    weights = convolutional(head("mlp_coarse", 71, 32, 1), prefixed("mlp_coarse", *blocks), out=32)
    assert import_checkpoint(saved(tmp_path / "public.pt", weights), tmp_path / "own.ckpt", settings("bts_re10k")) == []
    field = Checkpoint.read(tmp_path / "own.ckpt").density_field()
    code = PointCodeSpec(near=1.0, far=100.0, minimum_depth=1.0 / 3.0)
    place = code.coordinates(POINTS, field.camera)
    place[:, 2] = 2.0 * (1.0 / POINTS.norm(dim=-1) - 0.01) / 0.99 - 1.0
    with torch.no_grad():
        seen = field.observe(IMAGES[:, 0])
        inputs = torch.cat([sample_map(seen.raw, place[None])[0].T, code.encode(place)], dim=-1)

        def linear(name: str, values: Tensor) -> Tensor:
            return functional.linear(values, *(weights[f"mlp_coarse.{name}.{kind}"] for kind in ("weight", "bias")))

        hidden = linear("lin_in", inputs)
        hidden = hidden + linear("blocks.0.fc_1", linear("blocks.0.fc_0", hidden.relu()).relu())
        expected = functional.softplus(linear("lin_out", hidden.relu()))[:, 0]
        torch.testing.assert_close(seen.density(POINTS[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_is_the_public_network(tmp_path: Path) -> None:
    file = saved(tmp_path / "public.pt", convolutional(SEVERAL), "")
    import_checkpoint(file, tmp_path / "own.ckpt", settings("mvbts_kitti_360"))
    field = Checkpoint.read(tmp_path / "own.ckpt").field_of(MultiViewField)
    assert sum(parameter.numel() for parameter in field.fusion.parameters()) == 15_794
    poses = torch.eye(4).expand(1, 2, 4, 4).clone()
    poses[0, 1, :3, 3] = torch.tensor([0.6, 0.0, 0.8])
    with torch.no_grad():
        found = field.observe(IMAGES, poses).density(POINTS[None])[0]
    close(found, 1.03751, 1.22555, 1.12179, 0.9799, 1.12721, 0.8903)


def test_scenedino_is_the_public_network(tmp_path: Path) -> None:
    """Densities, expanded features, and the codes of its second stage."""
    second_stage = layer("linear_path.0", WIDTH, 64, 1, 1) | layer("nonlinear_path.0", WIDTH, WIDTH, 1, 1)
    second_stage |= layer("nonlinear_path.2", WIDTH, 64, 1, 1)
    shapes = prefixed("encoder.encoder.model.vit", transformer()) | prefixed("encoder.decoder", pyramid())
    shapes |= prefixed("encoder.dim_reduction", layer("linear_in", 64, 128), layer("linear_out", 128, WIDTH))
    shapes |= head("heads.normal_head", 295, 128, 65) | prefixed("downstream_head.stego_head", second_stage)
    unused = {"encoder.gt_encoder.model.vit.cls_token": (1, 1, WIDTH)}
    unused |= {"downstream_head.stego_cluster_head.cluster_centers": (19, 64)}
    vit, first, second = tmp_path / "vit", tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    tiny_model("vit", num_hidden_layers=BLOCKS).save_pretrained(vit)
    file = saved(tmp_path / "public.pt", values(shapes | unused))
    others = import_checkpoint(file, first, settings("scenedino_kitti_360", f"encoder_weights={vit}"))
    assert all(name.startswith("downstream_head.stego_head.") for name in others)
    stage_2 = CONFIGS / "full_size" / "scenedino_semantics_kitti_360.yaml"
    configuration_2 = read_configuration(stage_2, [f"features_from={first}"], Configuration)
    assert import_checkpoint(file, second, configuration_2) == []
    for own in (first, second):
        field = Checkpoint.read(own).field_of(FeatureField)
        with torch.no_grad():
            seen = field.observe(IMAGES[:, 0])
            logits = seen.density_logit(POINTS[None])[0]
            found = field.codes(seen.features(POINTS[None]))[0]
        close(logits, -0.35507, 0.22416, 0.18216, -0.52054, 0.80816, -0.1293)
        close(found[1, :4], -0.21375, 0.19403, -0.05659, -0.14593)
    with torch.no_grad():
        codes = Checkpoint.read(second).distillation_head()(found)
    close(codes[1, :4], 0.2175, 0.03048, -0.10741, -0.19426)


def test_an_imported_checkpoint_is_evaluated(tmp_path: Path) -> None:
    file = saved(tmp_path / "public.pt", convolutional(head("mlp_coarse", 103, 64, 1)))
    config = CONFIGS / "full_size" / "bts_kitti_360.yaml"
    own = tmp_path / "bts" / "checkpoints" / "last.ckpt"
    assert main(["import-checkpoint", str(file), str(own), "--config", str(config)]) == 0
    drive = layouts.kitti_360(tmp_path / "data", frames=8, posed=range(8))
    split = layouts.write_split(tmp_path / "test_files.txt", [f"{layouts.DRIVE} 0000000001 l"])
    options = ["--data", str(drive), "--checkpoint", str(own), "--frames", str(split), "--scans", "5"]
    assert main(["evaluate", "geometry", *options, "--output", str(tmp_path / "scores")]) == 0
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert {row["method"] for row in scores["scores"]["lidar"]} == {"bts"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights, "heads mlp_coarse, none of which is that of stage teacher"),
        (
            lambda weights: {
                name: value for name, value in weights.items() if "decoder.5.conv.conv.weight" not in name
            },
            r"lacks field\.encoder\.decoder\.merge\.2\.0\.weight",
        ),
        (
            lambda weights: {**weights, "mlp_coarse.lin_in.weight": torch.zeros(32, 103)},
            r"lin_in\.weight \(32, 64, 1, 1\), where this network has \(64, 64, 1, 1\)",
        ),
        (lambda weights: {"a": torch.zeros(1)}, "no encoder of these systems"),
        (None, "cannot be read without executing it"),
    ],
)
def test_files_that_hold_something_else(change: Callable[..., Any] | None, message: str, tmp_path: Path) -> None:
    file, own = tmp_path / "public.pt", tmp_path / "own.ckpt"
    if change is None:
        file.write_bytes(b"no checkpoint")
    else:
        saved(file, change(convolutional(head("mlp_coarse", 103, 64, 1))))
    with pytest.raises(BundleError, match=message):
        import_checkpoint(file, own, settings("mvbts_kitti_360" if "teacher" in message else "bts_kitti_360"))
    assert not own.exists()
