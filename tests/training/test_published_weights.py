"""Public checkpoints: names and shapes of the reference's layer tables, and the same densities as the public network.

The public network is written down here once more, as functions of its own names. Files of that layout are made here:
the published ones cannot be had by a test.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration, read_configuration
from scene_completion_training.networks.density_field import DensityField, MultiViewField
from scene_completion_training.networks.feature_field import FeatureField, SemanticField
from scene_completion_training.published_weights import import_checkpoint
from tests import official_layouts as layouts
from tests.training.foundation.tiny_models import tiny_model

Weights = dict[str, Tensor]
BLOCKS = (3, 4, 6, 3)
SMALL = [f"camera.{name}" for name in ("width=96", "height=64", "fx=37.7", "fy=65", "cx=47.5", "cy=31.5")]


def convolution(weights: Weights, name: str, out: int, channels: int, size: int, *, bias: bool) -> None:
    weights[f"{name}.weight"] = torch.randn(out, channels, size, size) / (channels * size**2) ** 0.5
    if bias:
        weights[f"{name}.bias"] = 0.1 * torch.randn(out)


def normalisation(weights: Weights, name: str, channels: int) -> None:
    weights |= {f"{name}.weight": 0.8 + 0.2 * torch.rand(channels), f"{name}.bias": 0.1 * torch.randn(channels)}
    weights |= {f"{name}.running_mean": 0.1 * torch.randn(channels), f"{name}.running_var": 0.8 + torch.rand(channels)}
    weights[f"{name}.num_batches_tracked"] = torch.tensor(7)


def linear(weights: Weights, name: str, out: int, inputs: int) -> None:
    weights |= {f"{name}.weight": torch.randn(out, inputs) / inputs**0.5, f"{name}.bias": 0.1 * torch.randn(out)}


def public_encoder() -> Weights:
    """ResNet-50 with torchvision's names, the decoder with Monodepth2's (density_fields.md, 4.1)."""
    weights: Weights = {"code_xyz._freqs": torch.ones(1, 12, 1), "code_xyz._phases": torch.ones(1, 12, 1)}
    trunk = "encoder.encoder.encoder"
    convolution(weights, f"{trunk}.conv1", 64, 3, 7, bias=False)
    normalisation(weights, f"{trunk}.bn1", 64)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 * 2**stage
        for block in range(blocks):
            place = f"{trunk}.layer{stage + 1}.{block}"
            for number, (out, into, size) in enumerate(
                ((width, inputs, 1), (width, width, 3), (4 * width, width, 1)), 1
            ):
                convolution(weights, f"{place}.conv{number}", out, into, size, bias=False)
                normalisation(weights, f"{place}.bn{number}", out)
            if block == 0:
                convolution(weights, f"{place}.downsample.0", 4 * width, inputs, 1, bias=False)
                normalisation(weights, f"{place}.downsample.1", 4 * width)
            inputs = 4 * width
    linear(weights, f"{trunk}.fc", 1000, 2048)
    below, skips = 2048, (1024, 512, 256, 64, 0)
    for level, (width, skip) in enumerate(zip((256, 128, 64, 64, 64), skips, strict=True)):
        convolution(weights, f"encoder.decoder.decoder.{2 * level}.conv.conv", width, below, 3, bias=True)
        convolution(weights, f"encoder.decoder.decoder.{2 * level + 1}.conv.conv", width, width + skip, 3, bias=True)
        below = width
    for scale, width in enumerate((64, 64, 64, 128)):
        convolution(weights, f"encoder.decoder.decoder.{10 + scale}.conv", 64, width, 3, bias=True)
    return weights


def single_head(weights: Weights, name: str) -> None:
    linear(weights, f"{name}.lin_in", 64, 103)
    linear(weights, f"{name}.lin_out", 1, 64)


def several_head(weights: Weights) -> None:
    linear(weights, "heads.multiviewhead3.mlp.lin_in", 128, 103)
    linear(weights, "heads.multiviewhead3.mlp.lin_out", 17, 128)
    linear(weights, "heads.multiviewhead3.mlp2.lin_in", 16, 16)
    linear(weights, "heads.multiviewhead3.mlp2.lin_out", 1, 16)


def public_features(weights: Weights, image: Tensor) -> Tensor:
    """Feature map [B, 64, H, W] of images in −1..1."""
    trunk = "encoder.encoder.encoder"

    def normalised(x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            weights[f"{trunk}.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias)

    def convolved(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return functional.conv2d(x, weights[f"{trunk}.{name}.weight"], stride=stride, padding=padding)

    x = (image * 0.5 + 0.5 - 0.45) / 0.225
    x = functional.relu(normalised(convolved(x, "conv1", 2, 3), "bn1"))
    maps = [x]
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            place, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            y = functional.relu(normalised(convolved(x, f"{place}.conv1"), f"{place}.bn1"))
            y = functional.relu(normalised(convolved(y, f"{place}.conv2", stride, 1), f"{place}.bn2"))
            y = normalised(convolved(y, f"{place}.conv3"), f"{place}.bn3")
            if block == 0:
                x = normalised(convolved(x, f"{place}.downsample.0", stride), f"{place}.downsample.1")
            x = functional.relu(x + y)
        maps.append(x)

    def reflected(x: Tensor, name: str) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        place = f"encoder.decoder.decoder.{name}"
        return functional.conv2d(padded, weights[f"{place}.weight"], weights[f"{place}.bias"])

    for level in range(5):
        x = functional.elu(reflected(x, f"{2 * level}.conv.conv"))
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = torch.cat([x, maps[3 - level]], dim=1) if level < 4 else x
        x = functional.elu(reflected(x, f"{2 * level + 1}.conv.conv"))
    return reflected(x, "10.conv")


def public_inputs(features: Tensor, local: Tensor, matrix: Tensor) -> Tensor:
    """Inputs [N, 103] of a head: features, and the code of points [N, 3] in a view of normalised intrinsics."""
    projected = local @ matrix.T
    xy, z = projected[:, :2] / projected[:, 2:], projected[:, 2:]
    depth = 2.0 * (1.0 / z - 1.0 / 80.0) / (1.0 / 3.0 - 1.0 / 80.0) - 1.0
    point = torch.cat([xy, depth], dim=1)
    angles = point[:, None] * (1.5 * 2.0 ** torch.arange(6)).repeat_interleave(2)[None, :, None]
    angles = angles + torch.tensor([0.0, torch.pi / 2]).repeat(6)[None, :, None]
    sampled = functional.grid_sample(features, xy[None, None], padding_mode="border", align_corners=False)
    return torch.cat([sampled[0, :, 0].T, point, torch.sin(angles).flatten(1)], dim=1)


def layer(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def settings(name: str) -> Configuration:
    return read_configuration(CONFIGS / "full_size" / f"{name}.yaml", SMALL, Configuration)


def saved(path: Path, weights: Weights, prefix: str = "renderer.net.", **more: Any) -> Path:
    torch.save({"model": {f"{prefix}{name}": value for name, value in weights.items()}, **more}, path)
    return path


POINTS = torch.tensor(
    [[0.3, -0.2, 4.0], [-2.0, 0.5, 9.0], [3.0, 1.2, 20.0], [0.1, 0.4, 60.0], [-1.0, 0.2, 3.1], [3.6, 0.1, 3.05]]
)


def normalised_matrix(configuration: Configuration) -> Tensor:
    camera = configuration.viewpoint().camera
    rows = [
        [2.0 * camera.fx / camera.width, 0.0, 2.0 * (camera.cx + 0.5) / camera.width - 1.0],
        [0.0, 2.0 * camera.fy / camera.height, 2.0 * (camera.cy + 0.5) / camera.height - 1.0],
        [0.0, 0.0, 1.0],
    ]
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("bts_kitti_360", "mlp_coarse"),
        ("kdbts_kitti_360", "heads.singleviewhead"),
        ("s4c_kitti_360", "mlp_coarse"),
    ],
)
def test_a_field_of_one_view_says_what_the_public_network_says(name: str, head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = public_encoder()
    single_head(weights, head)
    if head.startswith("heads"):
        several_head(weights)
    classes = "mlp_segmentation.model" if name.startswith("s4c") else ""
    if classes:
        linear(weights, f"{classes}.0", 64, 103)
        linear(weights, f"{classes}.2", 19, 64)
    configuration = settings(name)
    public = saved(tmp_path / "public.pt", weights, optimizer={"step": 3})
    beside = import_checkpoint(public, tmp_path / "own.ckpt", configuration)
    assert all(other.startswith("heads.multiviewhead3.") for other in beside)
    stored = Checkpoint.read(tmp_path / "own.ckpt")
    assert stored.record["imported"]["file"] == "public.pt" and stored.stage == configuration.stage
    whole: Any = stored.field_of(SemanticField if classes else DensityField)
    field = whole.density if classes else whole
    head_layers = (field.feature_layer, field.position_layer, field.density_layer)
    assert sum(parameter.numel() for part in head_layers for parameter in part.parameters()) == 6721
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = public_features(weights, 2.0 * image - 1.0)
        torch.testing.assert_close(field.encoder(255.0 * image), features, rtol=1e-3, atol=1e-3)
        inputs = public_inputs(features, POINTS, normalised_matrix(configuration))
        logits = layer(weights, f"{head}.lin_out", functional.relu(layer(weights, f"{head}.lin_in", inputs)))
        seen = whole.observe(255.0 * image)
        found = seen.density(POINTS[None])[0]
        if classes:
            expected = layer(weights, f"{classes}.2", functional.relu(layer(weights, f"{classes}.0", inputs)))
            torch.testing.assert_close(whole.codes(seen.features(POINTS[None]))[0], expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(found, functional.softplus(logits[:, 0]), rtol=2e-3, atol=2e-3)


def test_a_teacher_says_what_the_public_network_says(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = public_encoder()
    several_head(weights)
    configuration = settings("mvbts_kitti_360")
    import_checkpoint(saved(tmp_path / "public.pt", weights, prefix=""), tmp_path / "own.ckpt", configuration)
    field = Checkpoint.read(tmp_path / "own.ckpt").field_of(MultiViewField)
    assert sum(parameter.numel() for parameter in field.fusion.parameters()) == 15_794
    images = torch.rand(1, 2, 3, 64, 96)
    poses = torch.eye(4).expand(1, 2, 4, 4).clone()
    poses[0, 1, :3, 3] = torch.tensor([0.6, 0.0, 0.8])
    matrix = normalised_matrix(configuration)
    with torch.no_grad():
        found = field.observe(255.0 * images, poses).density(POINTS[None])[0]
        encoded, invalid = [], []
        for view in range(2):
            features = public_features(weights, 2.0 * images[:, view] - 1.0)
            local = POINTS - poses[0, view, :3, 3]
            inputs = public_inputs(features, local, matrix)
            hidden = functional.relu(layer(weights, "heads.multiviewhead3.mlp.lin_in", inputs))
            encoded.append(layer(weights, "heads.multiviewhead3.mlp.lin_out", hidden))
            xy = (local @ matrix.T)[:, :2] / local[:, 2:]
            invalid.append((xy.abs() > 1.0).any(dim=1) | (local[:, 2] <= 1e-3))
        stacked = torch.stack(encoded, dim=1)
        share = stacked[..., 0].masked_fill(torch.stack(invalid, dim=1), -1e9).softmax(dim=1)
        fused = (share[..., None] * stacked[..., 1:]).sum(dim=1)
        hidden = functional.relu(layer(weights, "heads.multiviewhead3.mlp2.lin_in", fused))
        expected = functional.softplus(layer(weights, "heads.multiviewhead3.mlp2.lin_out", hidden)[:, 0])
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


WIDTH, BLOCKS_OF_TRANSFORMER, PATCH = 32, 12, 8
"""Those of `tiny_models`, of which the published width is 768."""


def public_transformer() -> Weights:
    """SceneDINO: timm's names of the transformer, with positions in the grid of 64×96; its decoder and heads."""
    weights: Weights = {}
    vit = "encoder.encoder.model.vit"
    tokens = (64 // PATCH) * (96 // PATCH)
    weights[f"{vit}.cls_token"] = torch.randn(1, 1, WIDTH)
    weights[f"{vit}.pos_embed"] = 0.5 * torch.randn(1, 1 + tokens, WIDTH)
    convolution(weights, f"{vit}.patch_embed.proj", WIDTH, 3, PATCH, bias=True)
    for block in range(BLOCKS_OF_TRANSFORMER):
        for name in ("norm1", "norm2"):
            weights |= {f"{vit}.blocks.{block}.{name}.{part}": torch.rand(WIDTH) + 0.5 for part in ("weight", "bias")}
        for name, out, into in (("attn.qkv", 96, 32), ("attn.proj", 32, 32), ("mlp.fc1", 64, 32), ("mlp.fc2", 32, 64)):
            linear(weights, f"{vit}.blocks.{block}.{name}", out, into)
    weights |= {f"{vit}.norm.{part}": torch.rand(WIDTH) + 0.5 for part in ("weight", "bias")}
    pyramid, decoder = (64, 64, 128, 256), "encoder.decoder"
    for level, channels in enumerate(pyramid):
        convolution(weights, f"{decoder}.reassemble_blocks.projects.{level}", channels, WIDTH, 1, bias=True)
        convolution(weights, f"{decoder}.convs.{level}", 256, channels, 3, bias=False)
        convolution(weights, f"{decoder}.fusion_blocks.{level}.project", 256, 256, 1, bias=True)
        for unit in (1, 2) if level else (2,):
            for number in (1, 2):
                place = f"{decoder}.fusion_blocks.{level}.res_conv_unit{unit}.conv{number}"
                convolution(weights, place, 256, 256, 3, bias=True)
    for level, size in ((0, 4), (1, 2), (3, 3)):
        place = f"{decoder}.reassemble_blocks.resize_layers.{level}"
        convolution(weights, place, pyramid[level], pyramid[level], size, bias=True)
    convolution(weights, f"{decoder}.project", 256, 256, 3, bias=True)
    for number, size in enumerate((3, 2, 3)):
        convolution(weights, f"{decoder}.output_head.head_modules.{number}", 256, 256, size, bias=True)
    linear(weights, "encoder.dim_reduction.linear_in", 128, 64)
    linear(weights, "encoder.dim_reduction.linear_out", WIDTH, 128)
    linear(weights, "heads.normal_head.lin_in", 128, 295)
    linear(weights, "heads.normal_head.lin_out", 65, 128)
    for name, out, into in (
        ("linear_path.0", 64, WIDTH),
        ("nonlinear_path.0", WIDTH, WIDTH),
        ("nonlinear_path.2", 64, WIDTH),
    ):
        convolution(weights, f"downstream_head.stego_head.{name}", out, into, 1, bias=True)
    weights["encoder.gt_encoder.model.vit.cls_token"] = torch.zeros(1, 1, WIDTH)
    weights["downstream_head.stego_cluster_head.cluster_centers"] = torch.zeros(19, 64)
    return weights


def public_map(weights: Weights, image: Tensor) -> Tensor:
    """SceneDINO's feature map [B, 256, 2H, 2W] of images in 0..1 (density_fields.md, 7.1)."""

    def affine(x: Tensor, name: str) -> Tensor:
        vit = f"encoder.encoder.model.vit.{name}"
        return functional.layer_norm(x, (WIDTH,), weights[f"{vit}.weight"], weights[f"{vit}.bias"], 1e-12)

    def dense(x: Tensor, name: str) -> Tensor:
        return layer(weights, f"encoder.encoder.model.vit.{name}", x)

    def convolved(x: Tensor, name: str, padding: int = 1, stride: int = 1) -> Tensor:
        bias = weights.get(f"encoder.decoder.{name}.bias")
        weight = weights[f"encoder.decoder.{name}.weight"]
        return functional.conv2d(x, weight, bias, padding=padding, stride=stride)

    def spread(x: Tensor, name: str, stride: int) -> Tensor:
        place = f"encoder.decoder.{name}"
        return functional.conv_transpose2d(x, weights[f"{place}.weight"], weights[f"{place}.bias"], stride=stride)

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image - mean[:, None, None]) / deviation[:, None, None]
    patch = "encoder.encoder.model.vit.patch_embed.proj"
    x = functional.conv2d(x, weights[f"{patch}.weight"], weights[f"{patch}.bias"], stride=PATCH).flatten(2).mT
    vit = "encoder.encoder.model.vit"
    x = torch.cat([weights[f"{vit}.cls_token"], x], dim=1) + weights[f"{vit}.pos_embed"]
    states = []
    for block in range(BLOCKS_OF_TRANSFORMER):
        place = f"blocks.{block}"
        q, k, v = dense(affine(x, f"{place}.norm1"), f"{place}.attn.qkv").reshape(1, -1, 3, 2, WIDTH // 2).unbind(2)
        seen = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + dense(seen.transpose(1, 2).flatten(2), f"{place}.attn.proj")
        x = x + dense(functional.gelu(dense(affine(x, f"{place}.norm2"), f"{place}.mlp.fc1")), f"{place}.mlp.fc2")
        states.append(x)
    tokens = [states[3], states[6], states[9], functional.normalize(affine(x, "norm"), dim=-1)]
    grids = [state[:, 1:].mT.reshape(1, WIDTH, 64 // PATCH, 96 // PATCH) for state in tokens]
    maps = [convolved(grid, f"reassemble_blocks.projects.{level}", 0) for level, grid in enumerate(grids)]
    maps[0] = spread(maps[0], "reassemble_blocks.resize_layers.0", 4)
    maps[1] = spread(maps[1], "reassemble_blocks.resize_layers.1", 2)
    maps[3] = convolved(maps[3], "reassemble_blocks.resize_layers.3", stride=2)
    maps = [convolved(x, f"convs.{level}") for level, x in enumerate(maps)]

    def unit(x: Tensor, name: str) -> Tensor:
        return x + convolved(functional.relu(convolved(functional.relu(x), f"{name}.conv1")), f"{name}.conv2")

    out = maps[3]
    for level in range(4):
        place = f"fusion_blocks.{level}"
        out = out + unit(maps[3 - level], f"{place}.res_conv_unit1") if level else out
        out = unit(out, f"{place}.res_conv_unit2")
        out = functional.interpolate(out, scale_factor=2, mode="bilinear", align_corners=True)
        out = convolved(out, f"{place}.project", 0)
    out = convolved(convolved(out, "project"), "output_head.head_modules.0")
    return convolved(spread(out, "output_head.head_modules.1", 2), "output_head.head_modules.2")


def test_scenedino_says_what_the_public_network_says(tmp_path: Path) -> None:
    """Densities, expanded features, and the codes of its second stage."""
    torch.manual_seed(3)
    weights = public_transformer()
    vit = tmp_path / "vit"
    tiny_model("vit", num_hidden_layers=BLOCKS_OF_TRANSFORMER).save_pretrained(vit)
    chosen = [*SMALL, f"encoder_weights={vit}"]
    configuration = read_configuration(CONFIGS / "full_size" / "scenedino_kitti_360.yaml", chosen, Configuration)
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    public = saved(tmp_path / "public.pt", weights)
    assert all(
        name.startswith("downstream_head.stego_head.") for name in import_checkpoint(public, first, configuration)
    )
    stage_2 = read_configuration(
        CONFIGS / "full_size" / "scenedino_semantics_kitti_360.yaml", [f"features_from={first}"], Configuration
    )
    assert import_checkpoint(public, second, stage_2) == []
    image = torch.rand(1, 3, 64, 96)
    for file in (first, second):
        field = Checkpoint.read(file).field_of(FeatureField)
        with torch.no_grad():
            inputs = public_inputs(public_map(weights, image), POINTS, normalised_matrix(configuration))
            hidden = functional.relu(layer(weights, "heads.normal_head.lin_in", inputs))
            out = layer(weights, "heads.normal_head.lin_out", hidden)
            wide = functional.relu(layer(weights, "encoder.dim_reduction.linear_in", out[:, 1:]))
            expected = functional.normalize(layer(weights, "encoder.dim_reduction.linear_out", wide), dim=-1)
            seen = field.observe(255.0 * image)
            torch.testing.assert_close(seen.density_logit(POINTS[None])[0], out[:, 0], rtol=2e-3, atol=2e-3)
            found = field.codes(seen.features(POINTS[None]))[0]
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    head = Checkpoint.read(second).distillation_head()
    place = "downstream_head.stego_head"

    def path(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, weights[f"{place}.{name}.weight"].flatten(1), weights[f"{place}.{name}.bias"])

    with torch.no_grad():
        codes = path(expected, "linear_path.0")
        codes = codes + path(functional.relu(path(expected, "nonlinear_path.0")), "nonlinear_path.2")
        torch.testing.assert_close(head(found), functional.normalize(codes, dim=-1), rtol=2e-3, atol=2e-3)


def test_an_imported_checkpoint_is_evaluated(tmp_path: Path) -> None:
    weights = public_encoder()
    single_head(weights, "mlp_coarse")
    file = saved(tmp_path / "public.pt", weights)
    config = CONFIGS / "full_size" / "bts_kitti_360.yaml"
    own = tmp_path / "bts" / "checkpoints" / "last.ckpt"
    assert main(["import-checkpoint", str(file), str(own), "--config", str(config)]) == 0
    drive = layouts.kitti_360(tmp_path / "data", frames=8, posed=range(8))
    split = layouts.write_split(tmp_path / "test_files.txt", [f"{layouts.DRIVE} 0000000001 l"])
    options = ["--data", str(drive), "--checkpoint", str(own), "--frames", str(split), "--scans", "5"]
    assert main(["evaluate", "geometry", *options, "--output", str(tmp_path / "scores")]) == 0
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert {row["method"] for row in scores["scores"]["lidar"]} == {"bts"}


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    weights = public_encoder()
    single_head(weights, "mlp_coarse")
    own, configuration = tmp_path / "own.ckpt", settings("bts_kitti_360")
    with pytest.raises(BundleError, match=r"heads mlp_coarse, none of which is that of stage teacher"):
        import_checkpoint(saved(tmp_path / "a.pt", weights), own, settings("mvbts_kitti_360"))
    short = {name: value for name, value in weights.items() if "decoder.decoder.5.conv.conv.weight" not in name}
    with pytest.raises(BundleError, match=r"lacks field\.encoder\.decoder\.merge\.2\.0\.weight"):
        import_checkpoint(saved(tmp_path / "b.pt", short), own, configuration)
    narrow = {**weights, "mlp_coarse.lin_in.weight": torch.zeros(32, 103)}
    with pytest.raises(BundleError, match=r"lin_in\.weight \(32, 64, 1, 1\), where this network has \(64, 64, 1, 1\)"):
        import_checkpoint(saved(tmp_path / "c.pt", narrow), own, configuration)
    with pytest.raises(BundleError, match="no encoder of these systems"):
        import_checkpoint(saved(tmp_path / "d.pt", {"a": torch.zeros(1)}), own, configuration)
    (tmp_path / "e.pt").write_bytes(b"no checkpoint")
    with pytest.raises(BundleError, match="cannot be read without executing it"):
        import_checkpoint(tmp_path / "e.pt", own, configuration)
    assert not own.exists()
