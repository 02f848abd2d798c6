"""A text-aligned teacher out of a segmentation network: class probabilities tied to embeddings of the class names.

The token of a cell is the mean over its pixels of `Σ_c p(c) e(c)`. p(c) is the probability of class c, and e(c) the
embedding, of length 1, of its name in a sentence. Its cosine with other sentences shows which classes they are near to.
A class may be described by several phrases: e(c) is then the direction of the mean of their embeddings. The network
is ESPNetv2 (Mehta et al., CVPR 2019, https://arxiv.org/abs/1811.11431). Its modules are named as in the released
weights of sacmehta/EdgeNets, which are loaded strictly.
"""

import dataclasses
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import CITYSCAPES_CLASSES as TRAIN_IDS
from scene_completion_training.arrays import Bytes
from scene_completion_training.foundation.backbone import DenseExtractor, ModelIdentity
from scene_completion_training.foundation.encoded_words import PhraseList, TextEncoder, prompt
from scene_completion_training.foundation.model_files import IMAGENET_MEAN, IMAGENET_STD, Normalisation

CITYSCAPES_CLASSES = (*TRAIN_IDS, "background")  # names of the outputs, in the order of Cityscapes' train ids
STRIDE = 32  # edges of images are multiples of it
_BRANCHES = 4
_LEVEL_3, _LEVEL_4 = 3, 7
# Dilations of the branches: where the receptive field may be 9 × 9 or larger, and where at most 7 × 7.
_WIDE, _NARROW = (1, 2, 3, 4), (1, 1, 2, 3)
_SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)


def _named(**layers: nn.Module) -> nn.Sequential:
    """Layers one behind the other, under the names that they have in the released weights."""
    return nn.Sequential(OrderedDict(layers))


def _convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, *, active: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch normalisation and, where active, PReLU."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return _named(conv=conv, bn=nn.BatchNorm2d(outputs), **({"act": nn.PReLU(outputs)} if active else {}))


class _Pyramid(nn.Module):
    """EESP: reduce, transform in branches of growing dilation that are summed up one by one, expand."""

    def __init__(self, inputs: int, outputs: int, dilations: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        width = outputs // _BRANCHES
        self.proj_1x1 = _convolution(inputs, width, 1, groups=_BRANCHES)
        depthwise = (nn.Conv2d(width, width, 3, stride, far, far, groups=width, bias=False) for far in dilations)
        self.spp_dw = nn.ModuleList(_named(conv=convolution) for convolution in depthwise)
        self.conv_1x1_exp = _convolution(outputs, outputs, 1, groups=_BRANCHES, active=False)
        self.br_after_cat = _named(bn=nn.BatchNorm2d(outputs), act=nn.PReLU(outputs))
        self.module_act = nn.PReLU(outputs)
        self._residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.proj_1x1(x)
        branches = itertools.accumulate(branch(reduced) for branch in self.spp_dw)
        expanded: Tensor = self.conv_1x1_exp(self.br_after_cat(torch.cat(list(branches), dim=1)))
        return self.module_act(expanded + x) if self._residual else expanded


class _Downsampling(nn.Module):
    """Half the size: averages next to an EESP, and the image itself added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.eesp = _Pyramid(inputs, outputs - inputs, _WIDE, stride=2)
        self.inp_reinf = nn.Sequential(_convolution(3, 3, 3), _convolution(3, outputs, 1, active=False))
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        halved = torch.cat([_halved(x), self.eesp(x)], dim=1)
        while image.shape[-2:] != halved.shape[-2:]:
            image = _halved(image)
        return self.act(halved + self.inp_reinf(image))  # type: ignore[no-any-return]


def _halved(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=2, padding=1)


class _Base(nn.Module):
    """The trunk; `level1` has half the edge of the image, `level4` a sixteenth."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.level1 = _convolution(3, first, 3, stride=2)
        self.level2_0 = _Downsampling(first, second)
        self.level3_0 = _Downsampling(second, third)
        self.level3 = nn.Sequential(*(_Pyramid(third, third, _WIDE) for _ in range(_LEVEL_3)))
        self.level4_0 = _Downsampling(third, fourth)
        self.level4 = nn.Sequential(*(_Pyramid(fourth, fourth, _NARROW) for _ in range(_LEVEL_4)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = self.level1(image)
        second = self.level2_0(first, image)
        third = self.level3(self.level3_0(second, image))
        return first, second, third, self.level4(self.level4_0(third, image))


def _normalised(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


def _cbr(inputs: int, outputs: int, size: int, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    return _named(cbr=nn.Sequential(convolution, *_normalised(outputs)))


class _PyramidPooling(nn.Module):
    """Depthwise convolutions of the same input at several scales, merged."""

    def __init__(self, inputs: int, width: int, outputs: int, *, last: bool = False) -> None:
        super().__init__()
        wide = width * len(_SCALES)
        self.projection_layer = _cbr(inputs, width, 1)
        self.stages = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False) for _ in _SCALES)
        self.merge_layer = nn.Sequential(
            _named(br=_normalised(wide)),
            nn.ChannelShuffle(len(_SCALES)),  # puts together the channels of one number of all scales
            _cbr(wide, width, 3, groups=width),
            nn.Conv2d(width, outputs, 1, bias=last),
        )
        self.br = nn.Identity() if last else _named(br=_normalised(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection_layer(x)
        size = (x.shape[2], x.shape[3])
        scaled = []
        for scale, stage in zip(_SCALES, self.stages, strict=True):
            other = (max(5, math.ceil(size[0] * scale)), max(5, math.ceil(size[1] * scale)))
            if scale < 1.0:
                scaled.append(_resized(stage(functional.adaptive_avg_pool2d(x, other)), size))
            elif scale > 1.0:
                scaled.append(functional.adaptive_avg_pool2d(stage(_resized(x, other)), size))
            else:
                scaled.append(stage(x))
        return self.br(self.merge_layer(torch.cat(scaled, dim=1)))  # type: ignore[no-any-return]


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


class _Gated(nn.Module):
    """Features of the trunk for the decoder, each channel weighed by what the whole image shows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.Sigmoid())
        self.expansion_layer = _cbr(inputs, outputs, 3, groups=math.gcd(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.expansion_layer(x) * self.wt_layer(x)  # type: ignore[no-any-return]


class ESPNetv2(nn.Module):
    """Class scores of the pixels of images; the trunk's levels have 32, 128, 256, 512 channels at the scale 2.0."""

    def __init__(self, widths: Sequence[int] = (32, 128, 256, 512), classes: int = len(CITYSCAPES_CLASSES)) -> None:
        super().__init__()
        first, second, third, fourth = widths
        width = min(classes // 2, 16)
        self.base_net = _Base(widths)
        self.bu_dec_l1 = _PyramidPooling(fourth, width, 64)
        self.bu_dec_l2 = _PyramidPooling(64, width, 48)
        self.bu_dec_l3 = _PyramidPooling(48, width, 32)
        self.bu_dec_l4 = _PyramidPooling(32, width, classes, last=True)
        self.merge_enc_dec_l2 = _Gated(third, 64)
        self.merge_enc_dec_l3 = _Gated(second, 48)
        self.merge_enc_dec_l4 = _Gated(first, 32)
        self.bu_br_l2, self.bu_br_l3, self.bu_br_l4 = _normalised(64), _normalised(48), _normalised(32)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K, H / 2, W / 2] of normalised RGB, multiples of 32; to be enlarged with aligned corners."""
        first, second, third, fourth = self.base_net(images)
        x = self.bu_dec_l1(fourth)
        x = self.bu_dec_l2(self.bu_br_l2(_doubled(x) + self.merge_enc_dec_l2(third)))
        x = self.bu_dec_l3(self.bu_br_l3(_doubled(x) + self.merge_enc_dec_l3(second)))
        return self.bu_dec_l4(self.bu_br_l4(_doubled(x) + self.merge_enc_dec_l4(first)))  # type: ignore[no-any-return]


def _doubled(x: Tensor) -> Tensor:
    return _resized(x, [2 * edge for edge in x.shape[-2:]])


def load_espnetv2(model: str | Path) -> tuple[ESPNetv2, Path]:
    """Loads a network of any width, frozen, from a state dict of tensors (.pth) or a folder with one; and its file.

    Raises ConfigurationError for no or several files, or other classes; BundleError for a damaged one.
    """
    path = Path(model).expanduser()
    files = sorted(path.glob("*.pth")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        cure = "Name one .pth file of ESPNetv2, or a folder with one"
        raise ConfigurationError(f"{len(files) if path.is_dir() else 'no'} weight files", where=str(path), cure=cure)
    (file,) = files
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        levels = ("level1.act", "level2_0.act", "level3_0.act", "level4_0.act")
        widths = [len(weights[f"base_net.{level}.weight"]) for level in levels]
        classes = len(weights["bu_dec_l4.merge_layer.3.bias"])
        network = ESPNetv2(widths, classes)
        network.load_state_dict(weights)
    except Exception as error:  # of whatever kind: the file is untrusted
        what = f"no weights of ESPNetv2 ({' '.join(str(error).split())[:300]})"
        raise BundleError(what, where=str(file), cure="Get it once more") from error
    if classes != len(CITYSCAPES_CLASSES):
        cure = "Name weights of Cityscapes, with 19 classes and the background"
        raise ConfigurationError(f"{classes} classes", where=str(file), cure=cure)
    return network.eval().requires_grad_(False), file


NAMES = PhraseList()  # of the classes alone
LONG_EDGE = 1024  # of the images that the network was trained with, pixels; others are resized to it


def _probabilities(network: ESPNetv2, pixels: Tensor) -> Tensor:
    """Probabilities [B, 20, H, W] of the classes of normalised images [B, 3, H, W]."""
    size = pixels.shape[-2:]
    scale = LONG_EDGE / max(size)
    inner = [STRIDE * max(1, -(-round(edge * scale) // STRIDE)) for edge in size]
    scores = network(functional.interpolate(pixels, inner, mode="bilinear", antialias=True))
    scores = functional.interpolate(scores, inner, mode="bilinear", align_corners=True)  # as it was trained
    return functional.interpolate(scores.softmax(dim=1), size, mode="bilinear", antialias=True)


def city_segmentation(weights: str | Path) -> Callable[[Bytes], Bytes]:
    """Classes [H, W] of RGB images [H, W, 3]: train ids of Cityscapes, 19 for none; see `load_espnetv2`."""
    network = load_espnetv2(weights)[0]
    mean, deviation = (255.0 * torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def segment(image: Bytes) -> Bytes:
        pixels = (torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() - mean) / deviation
        with torch.no_grad():
            return _probabilities(network, pixels[None])[0].argmax(dim=0).to(torch.uint8).numpy()

    return segment


class ClassProbabilityTeacher(DenseExtractor):
    """ESPNetv2's class probabilities as vectors of a text encoder; errors as of `load_espnetv2` and `prompt`."""

    type, layer = "espnetv2", 0

    def __init__(
        self,
        weights: str | Path,  # of ESPNetv2, see `load_espnetv2`
        encoder: TextEncoder,  # gives the embeddings of the class names
        words: PhraseList = NAMES,  # phrases of classes, those of other classes are their names; and a template
        device: str = "cpu",  # where the network runs, in single precision
    ) -> None:
        (mr, mg, mb), (dr, dg, db) = ([255.0 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
        network, file = load_espnetv2(weights)
        super().__init__(file.stem, [file], encoder.dim, Normalisation((mr, mg, mb), (dr, dg, db)), device)
        self._network = network.to(self._device)
        self._encoder, self._template = encoder, words.template
        self._described = {entry.name: entry.phrases for entry in words.classes}
        if unknown := self._described.keys() - set(CITYSCAPES_CLASSES):
            cure = f"There are {', '.join(CITYSCAPES_CLASSES)}"
            raise ConfigurationError(f"no classes {', '.join(sorted(unknown))}", where="--class-texts", cure=cure)
        phrases = [self._described.get(name, (name,)) for name in CITYSCAPES_CLASSES]
        texts = [[prompt(phrase, words.template) for phrase in of_class] for of_class in phrases]
        means = torch.stack([encoder.encode(of_class).mean(dim=0) for of_class in texts])
        # float32 [20, D], of length 1, of the phrases of each class.
        self.embeddings = functional.normalize(means, dim=-1).to(self._device)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        described = {f"class {name}": ", ".join(phrases) for name, phrases in sorted(self._described.items())}
        settings, texts = {"template": self._template, "long_edge": str(LONG_EDGE), **described}, self._encoder
        identity = dataclasses.replace(super().identity, settings=settings)
        return dataclasses.replace(identity, text_encoder=texts.name, text_encoder_sha256=texts.sha256)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        means = functional.adaptive_avg_pool2d(_probabilities(self._network, pixels), (height, width))
        return torch.einsum("bchw,cd->bdhw", means, self.embeddings)
