"""Public checkpoints of the published systems as checkpoints of ours: the same networks under other names.

The public files are those of Behind the Scenes (Wimbauer et al., CVPR 2023), KDBTS (Han et al., CVPR 2024), S4C (Hayler
et al., 3DV 2024) and SceneDINO (Jevtić et al., ICCV 2025): `model` beside the state of their trainer. What only their
trainings use is left out, and so are prediction layers that the published models never use.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import scene_completion_ros
from scene_completion_ros.errors import BundleError
from scene_completion_ros.evaluation.semantic_classes import CITYSCAPES_CLASSES
from scene_completion_ros.whole_files import whole_file
from scene_completion_training.checkpoints import FORMAT, KEY
from scene_completion_training.configuration import Configuration
from scene_completion_training.networks.density_field import DensityField, MultiViewField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import DistillationHead, FeatureField, SemanticField
from scene_completion_training.stages.feature_field import CHANNELS, SemanticsConfiguration

# Names by which a ResNet and a transformer are known, whatever wraps the model in its file.
_FIRST = ("encoder.encoder.encoder.conv1.weight", "encoder.encoder.model.vit.cls_token")
_UNUSED = re.compile(
    r"code_xyz\.|encoder\.encoder\.encoder\.fc\.|encoder\.decoder\.decoder\.1[123]\.|"  # codes, ImageNet, other scales
    r"encoder\.(?:gt_encoder|downsampler|visualization)\.|downstream_head\.\w+_(?:cluster|linear)_head\."
)
# Stage of ours -> head of the public network that says the density.
_HEADS = {"teacher": "heads.multiviewhead3", "single_view": "mlp_coarse", "student": "heads.singleviewhead"}
_HEADS |= {"semantic_field": "mlp_coarse", "feature_field": "heads.normal_head", "semantics": "heads.normal_head"}
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))\.(\w+)")
_TRANSFORMER = (
    (r"encoder\.encoder\.model\.vit\.(.+)", r"encoder.trunk.network.\1"),
    (r"network\.pos_embed", "network.embeddings.position_embeddings"),
    (r"network\.cls_token", "network.embeddings.cls_token"),
    (r"network\.patch_embed\.proj", "network.embeddings.patch_embeddings.projection"),
    (r"network\.norm", "network.layernorm"),
    (r"\.attn\.proj", ".attention.o_proj"),
    (r"\.attn\.(\w)\.", r".attention.\1_proj."),
    (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
    (r"encoder\.decoder\.reassemble_blocks\.projects\.(\d)", r"encoder.trunk.reassemble.\1.0"),
    (r"encoder\.decoder\.reassemble_blocks\.resize_layers\.(\d)", r"encoder.trunk.reassemble.\1.1"),
    (r"encoder\.decoder\.convs", "encoder.decoder.lateral"),
    (r"encoder\.decoder\.fusion_blocks\.(\d)\.res_conv_unit1\.conv", r"encoder.decoder.fuse.\1.skip.body.c"),
    (r"encoder\.decoder\.fusion_blocks\.(\d)\.res_conv_unit2\.conv", r"encoder.decoder.fuse.\1.refine.body.c"),
    (r"body\.c1", "body.1"),
    (r"body\.c2", "body.3"),
    (r"encoder\.decoder\.fusion_blocks", "encoder.decoder.fuse"),
    (r"encoder\.decoder\.output_head\.head_modules", "encoder.decoder.head"),
)  # names of timm's transformer and of SceneDINO's decoder, piece by piece, and ours of a density field
_FEATURES = {
    "encoder.dim_reduction.linear_in": "expansion.0",
    "encoder.dim_reduction.linear_out": "expansion.2",
    "downstream_head.stego_head.linear_path.0": "head.linear",
    "downstream_head.stego_head.nonlinear_path.0": "head.nonlinear.0",
    "downstream_head.stego_head.nonlinear_path.2": "head.nonlinear.2",
}
_CURE = "Name a .pt file of Behind the Scenes, KDBTS, S4C or SceneDINO"


def import_checkpoint(file: Path, output: Path, configuration: Configuration) -> list[str]:
    """Writes the network of a public checkpoint as a checkpoint of the training that a configuration describes.

    The stage is `teacher` for MVBTS, `single_view` for Behind the Scenes, `student` for KDBTS, `semantic_field` for
    S4C, `feature_field` for SceneDINO. `semantics` is that of its second stage, for which `features_from` names what
    the first was imported to. Returns names of what the file holds beside that network. Raises BundleError where the
    file cannot be read without executing it, holds no such network, or one of another shape; ConfigurationError where
    the configuration of a transformer is not there.
    """
    weights = _read(file)
    head = _HEADS.get(configuration.stage, "")
    if not any(name.startswith(f"{head}.") for name in weights):
        known = [one for one in dict.fromkeys(_HEADS.values()) if any(name.startswith(f"{one}.") for name in weights)]
        heads = ", ".join(known) or "of no known kind"
        what = f"has the heads {heads}, none of which is that of stage {configuration.stage}"
        cure = "Name the configuration of mvbts for a teacher, of bts, kdbts, s4c or scenedino for their fields"
        raise BundleError(what, where=str(file), cure=cure)
    if isinstance(configuration, SemanticsConfiguration):  # its network is that of the first stage
        configuration = configuration.completed()
    state, used, found = dict(_network(configuration, weights).state_dict()), set[str](), set[str]()
    for name, source, value in _renamed(weights, configuration.stage):
        if name not in state or state[name].shape != value.shape:
            there = tuple(state[name].shape) if name in state else "nothing"
            what = f"{source} {tuple(value.shape)}, where this network has {there}"
            cure = "Name the configuration of the data set that it was trained on; another network cannot be read"
            raise BundleError(what, where=str(file), cure=cure)
        state[name] = value
        used.add(source)
        found.add(name)
    lacking = sorted(name for name in state.keys() - found if not name.endswith(("prior", "target_mean", "mask_token")))
    if lacking:
        what = f"lacks {lacking[0]}" + (f" and {len(lacking) - 1} others" if len(lacking) > 1 else "")
        raise BundleError(what, where=str(file), cure="Fetch the file again")
    record = {
        "format": FORMAT,
        "version": scene_completion_ros.__version__,
        "configuration": dataclasses.asdict(configuration),
        "focal_range": [configuration.viewpoint().camera.fx / configuration.viewpoint().camera.width] * 2,
        "imported": {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as part:
        torch.save({"state_dict": state, KEY: record}, part)
    return sorted(name for name in weights.keys() - used if not _UNUSED.match(name))


def _read(file: Path) -> dict[str, Tensor]:
    """Name -> weights of the model, without what wraps it."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        model: Mapping[str, Any] = content.get("model", content)
        found = {name: value for name, value in model.items() if isinstance(value, Tensor)}
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"cannot be read without executing it ({reason})", where=str(file), cure=_CURE) from error
    prefix = next((name.removesuffix(first) for name in found for first in _FIRST if name.endswith(first)), None)
    if prefix is None:
        raise BundleError("holds no encoder of these systems", where=str(file), cure=_CURE)
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def _network(configuration: Configuration, weights: Mapping[str, Tensor]) -> nn.ModuleDict:
    """The untrained network of a configuration: its field, and the head of the second stage of SceneDINO."""
    stage, viewpoint = configuration.stage, configuration.viewpoint()
    camera, code = viewpoint.camera, viewpoint.volume.point_code
    trunk, files = configuration.encoder, configuration.encoder_weights
    encoder = EncoderDecoder((camera.height, camera.width), trunk=trunk, pretrained=False, weights=files)
    hidden = configuration.hidden
    if stage == "teacher":
        several = MultiViewField(camera, code, encoder=encoder, hidden=hidden, depth_channel=False)
        return nn.ModuleDict({"field": several})
    density = DensityField(camera, code, encoder=encoder, hidden=hidden, depth_channel=False)
    if stage == "semantic_field":
        classes = len(CITYSCAPES_CLASSES)
        field: nn.Module = SemanticField(
            density, target_size=classes, channels=classes, units=hidden, expansion=nn.Identity(), reads="map"
        )
    elif stage in ("feature_field", "semantics"):
        size, width = weights.get("encoder.dim_reduction.linear_out.weight", torch.zeros(768, 128)).shape
        field = FeatureField(density, target_size=size, expansion=width, reads="units")
        if isinstance(configuration, SemanticsConfiguration):
            return nn.ModuleDict({"field": field, "head": DistillationHead(size, CHANNELS)})
    else:
        field = density
    return nn.ModuleDict({"field": field})


def _renamed(weights: Mapping[str, Tensor], stage: str) -> Iterator[tuple[str, str, Tensor]]:
    """Our name, the public name, and the weights, of the network of a stage."""
    density = "field.density." if stage in ("semantic_field", "feature_field", "semantics") else "field."
    second = any(".ls1." in name for name in weights)  # DINOv2
    for source, value in weights.items():
        name, _, kind = source.rpartition(".")
        if name in _FEATURES:
            ours = _FEATURES[name]
            if not ours.startswith("head."):
                yield f"field.{ours}.{kind}", source, value
            elif stage == "semantics":
                yield f"{ours}.{kind}", source, value.flatten(1) if kind == "weight" else value
        elif source.startswith("encoder.encoder.model.") or (
            source.startswith("encoder.decoder.") and not source.startswith("encoder.decoder.decoder.")
        ):
            yield from ((f"{density}{ours}", source, part) for ours, part in _transformer(source, value, second=second))
        elif source.startswith("encoder.encoder.encoder.") and (ours := _trunk(source[24:])):
            yield f"{density}encoder.trunk.{ours}", source, value
        elif found := re.fullmatch(r"encoder\.decoder\.decoder\.(\d+)\.(?:conv\.)?conv\.(weight|bias)", source):
            number = int(found[1])
            if number <= 10:
                block = f"{('reduce', 'merge')[number % 2]}.{number // 2}.0" if number < 10 else "out"
                yield f"{density}encoder.decoder.{block}.{found[2]}", source, value
        elif stage == "semantic_field" and source.startswith("mlp_segmentation.model."):
            if name.endswith(".0"):
                yield from ((f"field.{ours}", source, part) for ours, part in _first_layer(kind, value))
            else:
                yield f"field.output_layer.{kind}", source, value
        elif source.startswith(f"{_HEADS[stage]}."):
            layer = source.removeprefix(f"{_HEADS[stage]}.")
            if stage == "teacher":
                yield from ((f"field.fusion.{ours}", source, part) for ours, part in _several_head(layer, kind, value))
            elif layer == f"lin_in.{kind}":
                yield from ((f"{density}{ours}", source, part) for ours, part in _first_layer(kind, value))
            elif layer == f"lin_out.{kind}":
                yield f"{density}density_layer.{kind}", source, value[:1]
                if len(value) > 1:
                    yield f"field.output_layer.{kind}", source, value[1:]


def _transformer(source: str, value: Tensor, *, second: bool) -> Iterator[tuple[str, Tensor]]:
    """Our names of a weight of SceneDINO's encoder, and the weights: queries, keys and values lie apart here."""
    if ".attn.qkv." in source:
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            yield from _transformer(source.replace(".qkv.", f".{letter}."), part, second=second)
        return
    blocks = (("vit.blocks.", "vit.encoder.layer."),)
    first = (("vit.blocks.", "vit.layers."), (".norm1.", ".layernorm_before."), (".norm2.", ".layernorm_after."))
    for here, ours in blocks if second else first:
        source = source.replace(here, ours)
    for pattern, ours in _TRANSFORMER:
        source = re.sub(pattern, ours, source)
    yield source, value


def _first_layer(kind: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The first layer of a head reads features and code, whose weights lie in two layers here."""
    if kind == "weight":
        features = value.shape[1] - 39
        yield "feature_layer.weight", value[:, :features, None, None].contiguous()
        yield "position_layer.weight", value[:, features:].contiguous()
    else:
        yield "position_layer.bias", value


def _several_head(layer: str, kind: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    layers = {"mlp.lin_out": "view_layer", "mlp2.lin_in": "mixing_layer", "mlp2.lin_out": "density_layer"}
    name = layer.rpartition(".")[0]
    if name == "mlp.lin_in":
        yield from _first_layer(kind, value)
    elif name in layers:
        yield f"{layers[name]}.{kind}", value


def _trunk(name: str) -> str:
    """Name in `transformers` of a weight of ResNet-50 in torchvision; empty for the classifier."""
    if found := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"stem.{_kind(found[1])}.{found[2]}"
    if (found := _BLOCK.fullmatch(name)) is None:
        return ""
    stage, block, kind, number, shortcut, value = found.groups()
    place = f"stages.{int(stage) - 1}.layers.{block}"
    if shortcut is not None:
        return f"{place}.shortcut.{_kind('conv' if shortcut == '0' else 'bn')}.{value}"
    return f"{place}.layer.{int(number) - 1}.{_kind(kind)}.{value}"


def _kind(short: str) -> str:
    return "convolution" if short == "conv" else "normalization"
