"""Public checkpoints: names and shapes of the reference's layer tables, and the same densities as the public network.

The public networks are written down here once more, with their own names. Files of that layout are made here: a test
cannot have the published ones.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration, read_configuration
from scene_completion_training.networks.density_field import DensityField, MultiViewField
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.published_weights import import_checkpoint
from tests import official_layouts as layouts
from tests.training.foundation.tiny_models import tiny_model

BLOCKS = (3, 4, 6, 3)
SMALL = [f"camera.{name}" for name in ("width=96", "height=64", "fx=37.7", "fy=65", "cx=47.5", "cy=31.5")]


def named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def within(path: str, module: nn.Module) -> nn.Module:
    """A module under the names of a path."""
    for name in reversed(path.split(".")):
        module = nn.ModuleDict({name: module})
    return module


class Bottleneck(nn.Module):
    """A block of ResNet-50, with torchvision's names."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        shortcut = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample = nn.Sequential(*shortcut) if inputs != 4 * width else None

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(y)))))
        return functional.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    """The maps [B, C, h, w] of an image in -1..1, finest first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.fc = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.Linear(2048, 1000)
        inputs = 64
        for stage, (blocks, width) in enumerate(zip(BLOCKS, (64, 128, 256, 512), strict=True)):
            first = Bottleneck(inputs, width, 2 if stage else 1)
            others = [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *others))
            inputs = 4 * width

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [functional.relu(self.bn1(self.conv1((image * 0.5 + 0.5 - 0.45) / 0.225)))]
        x = functional.max_pool2d(maps[0], 3, 2, 1)
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """That of Monodepth2, with its four scales."""

    def __init__(self) -> None:
        super().__init__()
        below, layers = 2048, []
        for width, skip in ((256, 1024), (128, 512), (64, 256), (64, 64), (64, 0)):
            layers += [named(conv=named(conv=reflected(inputs, width))) for inputs in (below, width + skip)]
            below = width
        self.decoder = nn.ModuleList([*layers, *(named(conv=reflected(width, 64)) for width in (64, 64, 64, 128))])

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[4]
        for level in range(5):
            x = functional.interpolate(functional.elu(self.decoder[2 * level](x)), scale_factor=2, mode="nearest")
            x = torch.cat([x, maps[3 - level]], dim=1) if level < 4 else x
            x = functional.elu(self.decoder[2 * level + 1](x))
        return self.decoder[10](x)  # type: ignore[no-any-return]


def reflected(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")


def head(inputs: int, width: int, outputs: int) -> nn.Module:
    return named(lin_in=nn.Linear(inputs, width), act=nn.ReLU(), lin_out=nn.Linear(width, outputs))


def several_head() -> nn.Module:
    return nn.ModuleDict({"mlp": head(103, 128, 17), "mlp2": head(16, 16, 1)})


def public(encoder: dict[str, nn.Module], **parts: nn.Module) -> nn.ModuleDict:
    """A public network in eval mode, all of whose weights are random."""
    network = nn.ModuleDict({"encoder": nn.ModuleDict(encoder), **parts}).eval()
    for name, value in network.state_dict().items():
        if name.endswith(("cls_token", "pos_embed")):
            value.normal_(0.0, 0.5)
        elif value.ndim > 1:
            value.normal_(0.0, value[0].numel() ** -0.5)
        elif name.endswith(("weight", "running_var")):
            value.uniform_(0.8, 1.4)
        elif value.is_floating_point():
            value.normal_(0.0, 0.1)
    return network


def convolutional(**parts: nn.Module) -> nn.ModuleDict:
    """A network with the encoder of Behind the Scenes (density_fields.md, 4.1)."""
    return public({"encoder": within("encoder", ResNet()), "decoder": Decoder()}, **parts)


def features_of(network: nn.ModuleDict, image: Tensor) -> Tensor:
    """Feature map [B, 64, H, W] of images in 0..1."""
    encoder: Any = network["encoder"]
    return encoder["decoder"](encoder["encoder"]["encoder"](2.0 * image - 1.0))  # type: ignore[no-any-return]


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


def settings(name: str, *more: str) -> Configuration:
    return read_configuration(CONFIGS / "full_size" / f"{name}.yaml", [*SMALL, *more], Configuration)


def saved(path: Path, weights: Mapping[str, Tensor], prefix: str = "renderer.net.", **more: Any) -> Path:
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


@pytest.mark.parametrize("name", ["bts_kitti_360", "kdbts_kitti_360"])
def test_a_field_of_one_view_is_the_public_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    single = head(103, 64, 1)
    heads = {"heads": nn.ModuleDict({"singleviewhead": single, "multiviewhead3": several_head()})}
    network = convolutional(**(heads if name.startswith("kdbts") else {"mlp_coarse": single}))
    configuration = settings(name)
    weights = network.state_dict() | {"code_xyz._freqs": torch.ones(1, 12, 1)}
    file = saved(tmp_path / "public.pt", weights, optimizer={"step": 3})
    others = import_checkpoint(file, tmp_path / "own.ckpt", configuration)
    assert all(other.startswith("heads.multiviewhead3.") for other in others)
    stored = Checkpoint.read(tmp_path / "own.ckpt")
    assert stored.record["imported"]["file"] == "public.pt" and stored.stage == configuration.stage
    field: Any = stored.field_of(DensityField)
    head_layers = (field.feature_layer, field.position_layer, field.density_layer)
    assert sum(parameter.numel() for part in head_layers for parameter in part.parameters()) == 6721
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = features_of(network, image)
        torch.testing.assert_close(field.encoder(255.0 * image), features, rtol=1e-3, atol=1e-3)
        inputs = public_inputs(features, POINTS, normalised_matrix(configuration))
        seen = field.observe(255.0 * image)
        expected = functional.softplus(single(inputs)[:, 0])
        torch.testing.assert_close(seen.density(POINTS[None])[0], expected, rtol=2e-3, atol=2e-3)


def test_a_teacher_is_the_public_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    several: Any = several_head()
    network = convolutional(heads=nn.ModuleDict({"multiviewhead3": several}))
    configuration = settings("mvbts_kitti_360")
    import_checkpoint(saved(tmp_path / "public.pt", network.state_dict(), ""), tmp_path / "own.ckpt", configuration)
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
            local = POINTS - poses[0, view, :3, 3]
            encoded.append(several["mlp"](public_inputs(features_of(network, images[:, view]), local, matrix)))
            xy = (local @ matrix.T)[:, :2] / local[:, 2:]
            invalid.append((xy.abs() > 1.0).any(dim=1) | (local[:, 2] <= 1e-3))
        stacked = torch.stack(encoded, dim=1)
        share = stacked[..., 0].masked_fill(torch.stack(invalid, dim=1), -1e9).softmax(dim=1)
        expected = functional.softplus(several["mlp2"]((share[..., None] * stacked[..., 1:]).sum(dim=1))[:, 0])
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


WIDTH, BLOCKS_OF_TRANSFORMER, PATCH = 32, 12, 8
"""Those of `tiny_models`, of which the published width is 768."""


class Block(nn.Module):
    """A block of a transformer, with timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-12) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = named(fc1=nn.Linear(WIDTH, 64), act=nn.GELU(), fc2=nn.Linear(64, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).reshape(1, -1, 3, 2, WIDTH // 2).transpose(1, 3).unbind(2)
        seen = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.attn["proj"](seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """The tokens of four blocks, as maps, of images of 64x96 in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (64 // PATCH) * (96 // PATCH), WIDTH))
        self.patch_embed = named(proj=nn.Conv2d(3, WIDTH, PATCH, PATCH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS_OF_TRANSFORMER))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, image: Tensor) -> list[Tensor]:
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = self.patch_embed((image - mean[:, None, None]) / deviation[:, None, None]).flatten(2).mT
        states = [torch.cat([self.cls_token, x], dim=1) + self.pos_embed]
        for block in self.blocks:
            states.append(block(states[-1]))
        tokens = [states[4], states[7], states[10], functional.normalize(self.norm(states[12]), dim=-1)]
        return [state[:, 1:].mT.reshape(1, WIDTH, 64 // PATCH, 96 // PATCH) for state in tokens]


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(256, 256, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """SceneDINO's decoder: a feature map [B, 256, 2H, 2W] (density_fields.md, 7.1)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 64, 128, 256)
        resized = nn.ConvTranspose2d(64, 64, 4, 4), nn.ConvTranspose2d(64, 64, 2, 2), nn.Identity()
        self.reassemble_blocks = nn.ModuleDict({
            "projects": nn.ModuleList(nn.Conv2d(WIDTH, width, 1) for width in widths),
            "resize_layers": nn.ModuleList([*resized, nn.Conv2d(256, 256, 3, 2, 1)]),
        })  # fmt: skip
        self.convs = nn.ModuleList(nn.Conv2d(width, 256, 3, padding=1, bias=False) for width in widths)
        self.fusion_blocks = nn.ModuleList()
        for level in range(4):
            units = {f"res_conv_unit{number}": Unit() for number in ((1, 2) if level else (2,))}
            self.fusion_blocks.append(nn.ModuleDict({**units, "project": nn.Conv2d(256, 256, 1)}))
        self.project = nn.Conv2d(256, 256, 3, padding=1)
        ends = (nn.Conv2d(256, 256, 3, padding=1) for _ in range(2))
        self.output_head = within(
            "head_modules", nn.Sequential(next(ends), nn.ConvTranspose2d(256, 256, 2, 2), next(ends))
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        blocks: Any = self.reassemble_blocks
        maps = [project(x) for project, x in zip(blocks["projects"], maps, strict=True)]
        maps = [resize(x) for resize, x in zip(blocks["resize_layers"], maps, strict=True)]
        maps = [convolution(x) for convolution, x in zip(self.convs, maps, strict=True)]
        out = maps[3]
        for level, block in enumerate(self.fusion_blocks):
            out = block["res_conv_unit2"](out + block["res_conv_unit1"](maps[3 - level]) if level else out)
            out = functional.interpolate(out, scale_factor=2, mode="bilinear", align_corners=True)
            out = block["project"](out)
        return self.output_head["head_modules"](self.project(out))  # type: ignore[no-any-return, index]


def test_scenedino_is_the_public_network(tmp_path: Path) -> None:
    """Densities, expanded features, and the codes of its second stage."""
    torch.manual_seed(3)
    reduction = nn.ModuleDict({"linear_in": nn.Linear(64, 128), "linear_out": nn.Linear(128, WIDTH)})
    linear = nn.Sequential(nn.Conv2d(WIDTH, 64, 1))
    nonlinear = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU(), nn.Conv2d(WIDTH, 64, 1))
    transformer, pyramid, density = Transformer(), Pyramid(), head(295, 128, 65)
    network = public(
        {"encoder": within("model.vit", transformer), "decoder": pyramid, "dim_reduction": reduction},
        heads=nn.ModuleDict({"normal_head": density}),
        downstream_head=within("stego_head", nn.ModuleDict({"linear_path": linear, "nonlinear_path": nonlinear})),
    )
    unused = {"encoder.gt_encoder.model.vit.cls_token": torch.zeros(1, 1, WIDTH)}
    unused["downstream_head.stego_cluster_head.cluster_centers"] = torch.zeros(19, 64)
    vit = tmp_path / "vit"
    tiny_model("vit", num_hidden_layers=BLOCKS_OF_TRANSFORMER).save_pretrained(vit)
    configuration = settings("scenedino_kitti_360", f"encoder_weights={vit}")
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    file = saved(tmp_path / "public.pt", network.state_dict() | unused)
    others = import_checkpoint(file, first, configuration)
    assert all(name.startswith("downstream_head.stego_head.") for name in others)
    stage_2 = CONFIGS / "full_size" / "scenedino_semantics_kitti_360.yaml"
    configuration_2 = read_configuration(stage_2, [f"features_from={first}"], Configuration)
    assert import_checkpoint(file, second, configuration_2) == []
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        inputs = public_inputs(pyramid(transformer(image)), POINTS, normalised_matrix(configuration))
        out = density(inputs)
        wide = functional.relu(reduction["linear_in"](out[:, 1:]))
        expected = functional.normalize(reduction["linear_out"](wide), dim=-1)
        for own in (first, second):
            field = Checkpoint.read(own).field_of(FeatureField)
            seen = field.observe(255.0 * image)
            torch.testing.assert_close(seen.density_logit(POINTS[None])[0], out[:, 0], rtol=2e-3, atol=2e-3)
            found = field.codes(seen.features(POINTS[None]))[0]
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
        pixels = expected[:, :, None, None]
        codes = functional.normalize((linear(pixels) + nonlinear(pixels))[..., 0, 0], dim=-1)
        torch.testing.assert_close(Checkpoint.read(second).distillation_head()(found), codes, rtol=2e-3, atol=2e-3)


def test_an_imported_checkpoint_is_evaluated(tmp_path: Path) -> None:
    weights = convolutional(mlp_coarse=head(103, 64, 1)).state_dict()
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


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


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
def test_files_that_hold_something_else(change: Change | None, message: str, tmp_path: Path) -> None:
    file, own = tmp_path / "public.pt", tmp_path / "own.ckpt"
    if change is None:
        file.write_bytes(b"no checkpoint")
    else:
        saved(file, change(convolutional(mlp_coarse=head(103, 64, 1)).state_dict()))
    with pytest.raises(BundleError, match=message):
        import_checkpoint(file, own, settings("mvbts_kitti_360" if "teacher" in message else "bts_kitti_360"))
    assert not own.exists()
