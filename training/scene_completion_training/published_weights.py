"""Public checkpoints of Behind the Scenes and KDBTS as checkpoints of ours: the same network under other names.

The public files are those of Wimbauer et al. (CVPR 2023) and Han et al. (CVPR 2024), `model` beside the state of their
trainer. Their U-Net has prediction layers for three coarser scales, which the published models never use; those are
left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scene_completion_ros
from scene_completion_ros.errors import BundleError
from scene_completion_ros.whole_files import whole_file
from scene_completion_training.checkpoints import FORMAT, KEY
from scene_completion_training.configuration import Configuration
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.multi_view_field import MultiViewField

_FIRST = "encoder.encoder.encoder.conv1.weight"
"""A name by which a model is known, whatever wraps it in its file."""
_UNUSED = re.compile(
    r"code_xyz\.|encoder\.encoder\.encoder\.fc\.|encoder\.decoder\.decoder\.1[123]\."  # codes, ImageNet, coarser scales
)
_HEADS = {"mlp_coarse": "single", "heads.singleviewhead": "single", "heads.multiviewhead3": "several"}
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))\.(\w+)")


def import_checkpoint(file: Path, output: Path, configuration: Configuration) -> list[str]:
    """Writes the network of a public checkpoint as a checkpoint of the training that a configuration describes.

    Args:
        file: The public checkpoint.
        output: The checkpoint to write.
        configuration: Of stage `teacher` for MVBTS, of `single_view` or `student` for Behind the Scenes and KDBTS.

    Returns:
        Names of what the file holds beside that network.

    Raises:
        BundleError: The file cannot be read without executing it, holds no such network, or one of another shape.
    """
    weights = _read(file)
    several = configuration.stage == "teacher"
    heads = [head for head, kind in _HEADS.items() if any(name.startswith(f"{head}.") for name in weights)]
    wanted = next((head for head in heads if (_HEADS[head] == "several") == several), None)
    if wanted is None:
        raise BundleError(
            f"has the heads {', '.join(heads) or 'of no known kind'}, none of which is that of stage "
            f"{configuration.stage}",
            where=str(file),
            cure="Name the configuration of mvbts for a teacher, of bts or kdbts for a field of one view",
        )
    field = _network(configuration, several)
    state, used = dict(field.state_dict()), set[str]()
    for name, source, value in _renamed(weights, wanted):
        if name not in state or state[name].shape != value.shape:
            there = tuple(state[name].shape) if name in state else "nothing"
            raise BundleError(
                f"{source} {tuple(value.shape)}, where this network has {there}",
                where=str(file),
                cure="Name the configuration of the data set that it was trained on; another network cannot be read",
            )
        state[name] = value
        used.add(source)
    expected = {name for name in state if name != "encoder.prior"}
    if lacking := sorted(expected - {name for name, _, _ in _renamed(weights, wanted)}):
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
        torch.save({"state_dict": {f"field.{name}": value for name, value in state.items()}, KEY: record}, part)
    return sorted(name for name in weights.keys() - used if not _UNUSED.match(name))


def _read(file: Path) -> dict[str, Tensor]:
    """Name -> weights of the model, without what wraps it."""
    cure = "Name a .pt file of Behind the Scenes or KDBTS"
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        model: Mapping[str, Any] = content.get("model", content)
        found = {name: value for name, value in model.items() if isinstance(value, Tensor)}
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"cannot be read without executing it ({reason})", where=str(file), cure=cure) from error
    prefix = next((name.removesuffix(_FIRST) for name in found if name.endswith(_FIRST)), None)
    if prefix is None:
        raise BundleError("holds no ResNet encoder of Behind the Scenes", where=str(file), cure=cure)
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def _network(configuration: Configuration, several: bool) -> DensityField | MultiViewField:
    viewpoint = configuration.viewpoint()
    camera, code = viewpoint.camera, viewpoint.volume.point_code
    encoder = EncoderDecoder((camera.height, camera.width), trunk="resnet50", pretrained=False)
    if several:
        return MultiViewField(camera, code, encoder=encoder, hidden=configuration.hidden, depth_channel=False)
    return DensityField(camera, code, encoder=encoder, hidden=configuration.hidden, depth_channel=False)


def _renamed(weights: Mapping[str, Tensor], head: str) -> Iterator[tuple[str, str, Tensor]]:
    """Our name, the public name, and the weights, of the network with one of the heads."""
    for source, value in weights.items():
        if source.startswith("encoder.encoder.encoder.") and (name := _trunk(source[24:])):
            yield f"encoder.trunk.{name}", source, value
        elif found := re.fullmatch(r"encoder\.decoder\.decoder\.(\d+)\.(?:conv\.)?conv\.(weight|bias)", source):
            number, kind = int(found[1]), found[2]
            if number <= 10:
                block = f"{('reduce', 'merge')[number % 2]}.{number // 2}.0" if number < 10 else "out"
                yield f"encoder.decoder.{block}.{kind}", source, value
        elif source.startswith(f"{head}."):
            yield from _head(source.removeprefix(f"{head}."), source, value, several=_HEADS[head] == "several")


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


def _head(name: str, source: str, value: Tensor, *, several: bool) -> Iterator[tuple[str, str, Tensor]]:
    """A layer of a head; the first one reads features and code, whose weights lie in two layers here."""
    place = "fusion." if several else ""
    first = "mlp.lin_in." if several else "lin_in."
    if name == f"{first}weight":
        features = value.shape[1] - 39
        yield f"{place}feature_layer.weight", source, value[:, :features, None, None].contiguous()
        yield f"{place}position_layer.weight", source, value[:, features:].contiguous()
    elif name == f"{first}bias":
        yield f"{place}position_layer.bias", source, value
    elif several:
        layers = {"mlp.lin_out": "view_layer", "mlp2.lin_in": "mixing_layer", "mlp2.lin_out": "density_layer"}
        layer, _, kind = name.rpartition(".")
        if layer in layers:
            yield f"{place}{layers[layer]}.{kind}", source, value
    elif name.startswith("lin_out."):
        yield f"density_layer.{name.removeprefix('lin_out.')}", source, value
