"""Public checkpoints of the published systems as checkpoints of ours: the same networks under other names.

The public files are those of Behind the Scenes (Wimbauer et al., CVPR 2023), KDBTS (Han et al., CVPR 2024), S4C (Hayler
et al., 3DV 2024) and SceneDINO (Jevtić et al., ICCV 2025): `model` next to the state of their trainer. What only their
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
from scene_completion_ros.whole_files import whole_file
from scene_completion_training.checkpoints import FORMAT, KEY
from scene_completion_training.configuration import Configuration
from scene_completion_training.networks.density_field import DensityField, MultiViewField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import DistillationHead, FeatureField
from scene_completion_training.stages.feature_field import CHANNELS, SemanticsConfiguration

# Names by which a ResNet and a transformer are known, whatever wraps the model in its file.
_FIRST = ("encoder.encoder.encoder.conv1.weight", "encoder.encoder.model.vit.cls_token")
_UNUSED = re.compile(
    r"code_xyz\.|encoder\.encoder\.encoder\.fc\.|encoder\.decoder\.decoder\.1[123]\.|"  # codes, ImageNet, other scales
    r"encoder\.(?:gt_encoder|downsampler|visualization)\.|downstream_head\.\w+_(?:cluster|linear)_head\."
)
# Stage of ours -> head of the public network that gives the density.
_HEADS = {"teacher": "heads.multiviewhead3", "single_view": "mlp_coarse", "student": "heads.singleviewhead"}
_HEADS |= {"feature_field": "heads.normal_head", "semantics": "heads.normal_head"}
_RESNET = "encoder.encoder.encoder"
_NAMES = (
    # torchvision's ResNet-50, and Monodepth2's decoder
    (rf"{_RESNET}\.(conv|bn)1\.", r"encoder.trunk.stem.\1."),
    *((rf"{_RESNET}\.layer{n + 1}\.(\d+)\.", rf"encoder.trunk.stages.{n}.layers.\1.") for n in range(4)),
    *((rf"(layers\.\d+)\.(conv|bn){n + 1}\.", rf"\1.layer.{n}.\2.") for n in range(3)),
    (r"downsample\.0", "shortcut.conv"),
    (r"downsample\.1", "shortcut.bn"),
    (r"(encoder\.trunk\..*)\.conv\.", r"\1.convolution."),
    (r"(encoder\.trunk\..*)\.bn\.", r"\1.normalization."),
    *((rf"(encoder\.decoder)\.decoder\.{2 * n}\.conv\.conv\.", rf"\1.reduce.{n}.0.") for n in range(5)),
    *((rf"(encoder\.decoder)\.decoder\.{2 * n + 1}\.conv\.conv\.", rf"\1.merge.{n}.0.") for n in range(5)),
    (r"encoder\.decoder\.decoder\.10\.conv\.", "encoder.decoder.out."),
    # timm's transformer, and SceneDINO's decoder
    (r"encoder\.encoder\.model\.vit\.(.+)", r"encoder.trunk.network.\1"),
    (r"network\.pos_embed", "network.embeddings.position_embeddings"),
    (r"network\.cls_token", "network.embeddings.cls_token"),
    (r"network\.patch_embed\.proj", "network.embeddings.patch_embeddings.projection"),
    (r"network\.norm", "network.layernorm"),
    (r"\.attn\.proj", ".attention.o_proj"),
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
)  # public names of encoders and ours below a density field, piece by piece
_DINO = (("vit.blocks.", "vit.layers."), (".norm1.", ".layernorm_before."), (".norm2.", ".layernorm_after."))
_DINOV2 = (("vit.blocks.", "vit.encoder.layer."),)
_LAYERS = {
    "encoder.dim_reduction.linear_in": "field.expansion.0",
    "encoder.dim_reduction.linear_out": "field.expansion.2",
    "heads.multiviewhead3.mlp.lin_out": "field.fusion.view_layer",
    "heads.multiviewhead3.mlp2.lin_in": "field.fusion.mixing_layer",
    "heads.multiviewhead3.mlp2.lin_out": "field.fusion.density_layer",
    "downstream_head.stego_head.linear_path.0": "head.linear",
    "downstream_head.stego_head.nonlinear_path.0": "head.nonlinear.0",
    "downstream_head.stego_head.nonlinear_path.2": "head.nonlinear.2",
}  # public layers that are layers of ours
_CURE = "Name a .pt file of Behind the Scenes, KDBTS or SceneDINO"


def import_checkpoint(file: Path, output: Path, configuration: Configuration) -> list[str]:
    """Writes the network of a public checkpoint as a checkpoint of the training that a configuration describes.

    The stage is `teacher` for MVBTS, `single_view` for Behind the Scenes, `student` for KDBTS,
    `feature_field` for SceneDINO. `semantics` is that of its second stage, for which `features_from` names what
    the first was imported to. Returns names of what else the file holds. Raises BundleError where the
    file cannot be read without executing it, holds no such network, or one of another shape; ConfigurationError where
    the configuration of a transformer is not there.
    """
    weights = _read(file)
    head = _HEADS.get(configuration.stage, "")
    if not any(name.startswith(f"{head}.") for name in weights):
        known = [one for one in dict.fromkeys(_HEADS.values()) if any(name.startswith(f"{one}.") for name in weights)]
        heads = ", ".join(known) or "of no known kind"
        what = f"has the heads {heads}, none of which is that of stage {configuration.stage}"
        cure = "Name the configuration of mvbts for a teacher, of bts, kdbts or scenedino for their fields"
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
    lacking = sorted(
        name
        for name in state.keys() - found
        if not name.endswith(("prior", "target_mean", "mask_token", "by_distance"))
    )
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
    pixels, channels = (camera.height, camera.width), configuration.channels
    encoder = EncoderDecoder(pixels, channels=channels, trunk=trunk, pretrained=False, weights=files)
    hidden = configuration.hidden
    if stage == "teacher":
        several = MultiViewField(camera, code, encoder=encoder, hidden=hidden, depth_channel=False)
        return nn.ModuleDict({"field": several})
    blocks, by_distance = configuration.blocks, configuration.code_mode == "distance"
    options: dict[str, Any] = {"depth_channel": False, "blocks": blocks, "by_distance": by_distance}
    density = DensityField(camera, code, encoder=encoder, hidden=hidden, **options)
    if stage in ("feature_field", "semantics"):
        size, width = weights.get("encoder.dim_reduction.linear_out.weight", torch.zeros(768, 128)).shape
        field = FeatureField(density, target_size=size, expansion=width, shared=True)
        if isinstance(configuration, SemanticsConfiguration):
            return nn.ModuleDict({"field": field, "head": DistillationHead(size, CHANNELS)})
        return nn.ModuleDict({"field": field})
    return nn.ModuleDict({"field": density})


def _renamed(weights: Mapping[str, Tensor], stage: str) -> Iterator[tuple[str, str, Tensor]]:
    """Our name, the public name, and the weights, of the network of a stage."""
    density = "field.density." if stage in ("feature_field", "semantics") else "field."
    blocks = _DINOV2 if any(".ls1." in name for name in weights) else _DINO
    used = "downstream_head.stego_head." if stage == "semantics" else "encoder."
    for source, value in weights.items():
        name, _, kind = source.rpartition(".")
        if not source.startswith(("encoder.", f"{_HEADS[stage]}.", used)):
            continue
        if name in _LAYERS:  # the linear layers of the second stage are convolutions of one pixel there
            flat = name.startswith("downstream_head.") and kind == "weight"
            yield f"{_LAYERS[name]}.{kind}", source, value.flatten(1) if flat else value
        elif source.startswith("encoder."):
            split = zip("qkv", value.chunk(3), strict=True) if ".attn.qkv." in source else (("", value),)
            for letter, part in split:
                ours = source.replace(".attn.qkv.", f".attention.{letter}_proj.")
                for public, own in blocks:
                    ours = ours.replace(public, own)
                for pattern, own in _NAMES:
                    ours = re.sub(pattern, own, ours)
                if ours.startswith(("encoder.trunk.", "encoder.decoder.")) and ".decoder.decoder." not in ours:
                    yield f"{density}{ours}", source, part
        elif name.endswith(".lin_in"):  # reads features and code, here by two layers
            above = "field.fusion." if stage == "teacher" else "field."
            place = density if name == f"{_HEADS[stage]}.lin_in" else above
            if kind == "weight":
                features = value.shape[1] - 39
                yield f"{place}feature_layer.weight", source, value[:, :features, None, None].contiguous()
                yield f"{place}position_layer.weight", source, value[:, features:].contiguous()
            else:
                yield f"{place}position_layer.bias", source, value
        elif block := re.fullmatch(rf"{re.escape(_HEADS[stage])}\.blocks\.(\d+)\.fc_([01])", name):
            yield f"field.blocks.{block[1]}.{1 + 2 * int(block[2])}.{kind}", source, value
        elif name == f"{_HEADS[stage]}.lin_out":
            yield f"{density}density_layer.{kind}", source, value[:1]
            if len(value) > 1:
                yield f"field.output_layer.{kind}", source, value[1:]
