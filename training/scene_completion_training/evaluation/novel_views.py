"""Novel views: a field sees one image, and what another camera sees is rendered in the colours of that image.

So Behind the Scenes is scored (`evaluator_nvs` of its code): the target is the other camera of the stereo pair on KITTI
raw, and a frame before or after on RealEstate10K. Pictures are compared as large as the network sees them, without
their edges. Samples along rays lie in the middle of their intervals instead of anywhere, and what is left of a ray ends
at its last one. LPIPS is the distance of pictures in features of AlexNet, weighted by what people find similar: Zhang
et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), section 3, version 0.1 of
its weights. They are read from files that the user names, which are not a part of this package. SSIM is that of Wang et
al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE TIP 2004), with the window that
published scores of novel views have: 7x7 pixels that weigh the same, and unbiased covariances (what scikit-image's
`structural_similarity` does without further arguments).

Do features stay the same from view to view? SceneDINO scores features so: two frames that are three apart,
each rendered from its own image; the second is warped to the first, and compared where a forward-backward check finds
nothing hidden. Its script is not public. Flow here comes from OpenCV's DIS (Kroeger et al., ECCV 2016), where the paper
takes RAFT, and the check is that of Sundaram et al., "Dense Point Trajectories by GPU-accelerated Large Displacement
Optical Flow" (ECCV 2010), equation 5.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError, SequenceError
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally, columns
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera, stereo_pair
from scene_completion_ros.untrusted_files import opened, read_tensors
from scene_completion_training.arrays import Bytes, Doubles, Floats, Mask
from scene_completion_training.evaluation.checkpoints import FieldModel
from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel
from scene_completion_training.foundation.backbone import DenseExtractor
from scene_completion_training.networks.density_field import ObservedField
from scene_completion_training.networks.feature_field import normalised
from scene_completion_training.rendering import image_rays, render_rays, rendered_features, sample_colours

CROP = 0.05  # share of width and height that is left out at each edge (Tucker and Snavely, CVPR 2020)
_WINDOW = 7
_C1, _C2 = 0.01**2, 0.03**2


def border_cropped(image: Floats, share: float = CROP) -> Floats:
    """A picture [H, W, C] without its edges: rows ceil(0.05 H) to floor(0.95 H), columns likewise."""
    rows, columns = (slice(math.ceil(share * size), math.floor((1.0 - share) * size)) for size in image.shape[:2])
    return image[rows, columns]


def psnr(rendered: Floats, true: Floats) -> float:
    """Peak signal-to-noise ratio -10 log10(mean (a - b)^2), dB, of pictures [H, W, C] in 0..1; infinite for equals."""
    error = float(np.mean((rendered.astype(np.float64) - true) ** 2))
    return -10.0 * math.log10(error) if error else math.inf


def ssim(rendered: Floats, true: Floats) -> float:
    """Mean structural similarity of pictures [H, W, C] in 0..1, over channels and all windows inside of the picture."""

    def mean(values: Doubles) -> Doubles:
        return np.asarray(cv2.blur(values, (_WINDOW, _WINDOW)), np.float64)

    a, b = rendered.astype(np.float64), true.astype(np.float64)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1.0)
    mean_a, mean_b = mean(a), mean(b)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    variances = unbiased * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    similar = (2.0 * mean_a * mean_b + _C1) * (2.0 * covariance + _C2)
    similar /= (mean_a**2 + mean_b**2 + _C1) * (variances + _C2)
    edge = _WINDOW // 2
    return float(similar[edge:-edge, edge:-edge].mean())


SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the channels of pictures in -1..1
# AlexNet's convolutions by their place in torchvision: stride and padding. The second and third are pooled before.
_CONVOLUTIONS = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
_POOLED = (3, 6)
_NAMES = re.compile(r"(?:features|net\.slice\d)\.(\d+)\.(weight|bias)|lin(\d)\.model\.1\.(weight)")


class PerceptualDistance:
    """LPIPS with AlexNet; a `KeyError` names a weight that is missing.

    `weights`: AlexNet's convolutions in torchvision's names (`features.0.weight`) or those of the package `lpips`
    (`net.slice1.0.weight`), and the linear ones (`lin0.model.1.weight`).
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        named: dict[str, Tensor] = {}
        for name, value in weights.items():
            if found := _NAMES.fullmatch(name):
                layer, kind, level, linear = found.groups()
                named[f"{layer}.{kind}" if layer else f"lin{level}.{linear}"] = value.float()
        self._layers = [(named[f"{n}.weight"], named[f"{n}.bias"]) for n in _CONVOLUTIONS]
        self._linear = [named[f"lin{level}.weight"].reshape(1, -1, 1, 1) for level in range(len(_CONVOLUTIONS))]
        self(*np.zeros((2, 64, 64, 3), np.float32))  # other shapes fail here

    @staticmethod
    def open(files: Sequence[Path]) -> "PerceptualDistance":
        """Reads the weights from one file or two, executing nothing; a `BundleError` if they are not all there."""
        cure = "Give alexnet-owt-*.pth of torchvision and weights/v0.1/alex.pth of the package lpips, or one file with "
        cure += "the state_dict of lpips.LPIPS(net='alex')"
        where, weights = ", ".join(map(str, files)), dict[str, Tensor]()
        try:
            for file in files:
                if file.suffix == ".safetensors":
                    tensors = read_tensors(file, BundleError, cure=cure)
                    weights |= {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
                else:
                    with opened(file) as source:
                        weights |= torch.load(source, map_location="cpu", weights_only=True)
            return PerceptualDistance(weights)
        except BundleError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise BundleError(f"no weights of LPIPS with AlexNet ({reason})", where=where, cure=cure) from error

    @torch.inference_mode()
    def __call__(self, rendered: Floats, true: Floats) -> float:
        """Distance of two pictures [H, W, 3] in 0..1, at least 31 pixels high and wide: 0 for equals."""
        x = 2.0 * torch.from_numpy(np.stack([rendered, true])).permute(0, 3, 1, 2) - 1.0
        x = (x - torch.tensor(SHIFT)[:, None, None]) / torch.tensor(SCALE)[:, None, None]
        distance = 0.0
        layers = zip(_CONVOLUTIONS.items(), self._layers, self._linear, strict=True)
        for (place, (stride, padding)), layer, linear in layers:
            if place in _POOLED:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.relu(functional.conv2d(x, *layer, stride=stride, padding=padding))
            unit = x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            distance += float(((unit[:1] - unit[1:]).square() * linear).sum(dim=1).mean())
        return distance


STEREO = "stereo"  # as target: the other camera of the pair, at the same time


@dataclass(frozen=True, eq=False)
class NovelView:
    """A view to render from a frame whose image a model sees."""

    sequence: PosedSequence
    index: int
    target: str  # how the command line names the view: `STEREO`, or frames later
    seen: int  # frame of the view
    camera: str


@dataclass(frozen=True, eq=False)
class Figures:
    """What was computed of one view, by name; nothing where nothing counts."""

    target: str
    values: dict[str, float]


class ViewSynthesis:
    """A density field as a method that renders views; it is scored by LPIPS, too, where its weights are given."""

    def __init__(self, model: FieldModel, samples: int, distance: PerceptualDistance | None = None) -> None:
        self.name = model.name
        self._model, self._samples = model, samples
        self._similarities = {"psnr": psnr, "ssim": ssim} | ({"lpips": distance} if distance else {})

    def answer(self, view: NovelView) -> Figures:
        """Render a view from a frame, and compare it with its picture."""
        model, sequence = self._model, view.sequence
        seen, (first, *_) = model.encode(sequence, view.index)
        encoder_from_world = sequence.world_from_camera(first.index, first.camera).inverse()
        pose = (encoder_from_world @ sequence.world_from_camera(view.seen, view.camera)).matrix
        both = ((first.index, first.camera), (view.seen, view.camera))
        source, true = (model.image(sequence, index, camera) / 255.0 for index, camera in both)
        rendered = render_view(seen, model, source, torch.from_numpy(pose).float(), self._samples)
        pictures = [border_cropped(image.permute(1, 2, 0).numpy()) for image in (rendered, true)]
        return Figures(view.target, {name: score(*pictures) for name, score in self._similarities.items()})


@torch.inference_mode()
def render_view(seen: ObservedField, model: FieldModel, image: Tensor, encoder_from_view: Tensor, count: int) -> Tensor:
    """What a view at a pose [4, 4] sees in the colours of the first encoder view [3, H, W] in 0..1: [3, H, W]."""
    camera, spec = model.camera, model.field.spec
    image = image.to(model.device)
    masks, own = torch.ones_like(image[None, :1], dtype=torch.bool), torch.eye(4, device=model.device)[None, None]
    parts = []
    for rays in image_rays(camera, encoder_from_view.to(model.device)):
        rendered = render_rays(seen, rays, samples=count, near=spec.near, far=spec.far, jitter=False)
        colours, _ = sample_colours(image[None, None], masks, camera, own, rendered.points)
        parts.append(torch.einsum("rk,rkc->cr", rendered.weights[0], colours.reshape(-1, count, 3)))
    return torch.cat(parts, dim=1).reshape(3, camera.height, camera.width).cpu()


def novel_views(sequence: PosedSequence, indices: Iterable[int], targets: Sequence[str]) -> Iterator[NovelView]:
    """The target views of frames, as far as there are any; a `SequenceError` where a needed pair is missing."""
    left, other = reference_camera(sequence), ""
    if STEREO in targets:
        try:
            other = next(name for name in stereo_pair(sequence)[:2] if name != left)
        except SequenceError as error:
            raise SequenceError(error.what, where=error.where, cure="Name frames with --targets, such as 5") from error
    for index in indices:
        for target in targets:
            if target == STEREO:
                yield NovelView(sequence, index, target, index, other)
            elif 0 <= (seen := index + int(target)) < len(sequence):
                yield NovelView(sequence, index, target, seen, left)


def check_targets(targets: Sequence[str]) -> None:
    """Raises a `ConfigurationError` for what is neither `STEREO` nor a number of frames other than 0."""
    for target in targets:
        if target != STEREO and not (target.removeprefix("-").isdecimal() and int(target)):
            what = f"{target} is no view"
            raise ConfigurationError(what, where="--targets", cure=f"Name {STEREO}, or frames later (negative: before)")


class ViewTally(Tally):
    """Means of figures over views, by target."""

    def __init__(self, _: object) -> None:
        self._found: dict[str, list[dict[str, float]]] = {}

    def add(self, answer: Figures) -> None:
        """Count a view, unless nothing of it counts."""
        if answer.values:
            self._found.setdefault(answer.target, []).append(answer.values)
            self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By target."""
        for target, found in self._found.items():
            means = {name: float(np.mean([values[name] for values in found])) for name in found[0]}
            yield {"target": target, "frames": len(found), **means}


VIEWS = Metric(
    "views",
    "Novel views against the pictures of their cameras: 5 % cropped at each edge, mean over views. LPIPS needs its "
    "weights (--lpips).",
    (Column("psnr", "PSNR, dB ↑", percent=False), *columns("ssim: SSIM ↑, lpips: LPIPS ↓", percent=False)),
    ViewTally,
    by=("target",),
)


RELATIVE, ABSOLUTE = 0.01, 0.5  # of the squared flows, and squared pixels: how far forward and backward may disagree


def optical_flow(first: Bytes, second: Bytes) -> Floats:
    """Where pixels of a picture [H, W, 3] went in the next one: float32 [H, W, 2], pixels to the right and down."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    dense = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return np.asarray(dense.calc(*grey, None), np.float32)


def warped(values: Floats, flow: Floats) -> Floats:
    """Values [H, W, C] of the second picture where the pixels of the first went, bilinear; 0 outside of it."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    at = x + flow[..., 0], y + flow[..., 1]
    parts = [cv2.remap(part, *at, cv2.INTER_LINEAR) for part in np.moveaxis(values, -1, 0)]
    return np.stack(parts, axis=-1).astype(np.float32, copy=False)


def not_hidden(forward: Floats, backward: Floats) -> Mask:
    """Pixels [H, W] of the first picture that the second shows: the flow back leads to where they came from.

    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, with the backward flow b at the place to which the forward flow f leads.
    """
    back = warped(backward, forward)
    inside = warped(np.ones((*forward.shape[:2], 1), np.float32), forward)[..., 0] > 1.0 - 1e-3
    size = (forward**2).sum(axis=-1) + (back**2).sum(axis=-1)
    return np.asarray(inside & (((forward + back) ** 2).sum(axis=-1) < RELATIVE * size + ABSOLUTE))


def agreement(first: Floats, second: Floats) -> dict[str, float]:
    """How well codes [N, D] of the same pixels by two images agree, as means over the pixels; nothing without any."""
    if not len(first):
        return {}
    difference = (first - second).astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return {
        "l1": float(np.abs(difference).sum(axis=1).mean()),
        "l2": float(np.linalg.norm(difference, axis=1).mean()),
        "cosine": float(((first * second).sum(axis=1) / np.maximum(lengths, 1e-9)).mean()),
    }


class ViewConsistency:
    """A feature field as a method whose views are compared."""

    def __init__(self, model: FeatureFieldModel, samples: int) -> None:
        self.name = model.name
        self._model, self._samples = model, samples

    def answer(self, view: NovelView) -> Figures:
        """Render both frames from their own images, and bring the later one's codes to the first one's pixels."""
        images = [self._model.image(view.sequence, index) for index in (view.index, view.seen)]
        pictures = [image.permute(1, 2, 0).round().byte().numpy() for image in images]
        forward, backward = optical_flow(*pictures), optical_flow(*pictures[::-1])
        counted = not_hidden(forward, backward)
        first, second = (self._codes(image) for image in images)
        values = agreement(first[counted], warped(second, forward)[counted])
        return Figures(view.target, values and {"shared": float(counted.mean()), **values})

    @torch.inference_mode()
    def _codes(self, image: Tensor) -> Floats:
        """Codes [H, W, D] of the pixels of an image [3, H, W], composited along its rays."""
        seen, spec, device = self._model.encode(image), self._model.field.spec, self._model.device
        height, width = image.shape[1:]
        camera = self._model.field.camera.resized(width, height)
        parts = rendered_features(seen, camera, near=spec.near, far=spec.far, device=device, samples=self._samples)
        return torch.cat([self._model.codes(part) for part in parts]).reshape(height, width, -1).cpu().numpy()


class TokenConsistency(ViewConsistency):
    """The tokens of a foundation model in place of a field's features, bilinear between them: what it learned from.

    `model`: the field, whose images they are of, and which has the mean that they are compared without (zero if
    published); `cell`: edge of the square of pixels that a token covers, in the canonical image.
    """

    def __init__(self, model: FeatureFieldModel, extractor: DenseExtractor, cell: int) -> None:
        super().__init__(model, 0)
        self.name, self._extractor, self._cell = f"tokens of {extractor.name}", extractor, cell

    def _codes(self, image: Tensor) -> Floats:
        height, width = image.shape[1:]
        cell, mean = self._cell * width // self._model.field.camera.width, self._model.field.target_mean.cpu()
        tokens = self._extractor.features(image[None], max(1, cell)).cpu()
        tokens = tokens - mean[:, None, None] if len(mean) == tokens.shape[1] else tokens
        dense = functional.interpolate(
            normalised(tokens.movedim(1, -1)).movedim(-1, 1), scale_factor=max(1, cell), mode="bilinear"
        )
        return normalised(dense[0, :, :height, :width].permute(1, 2, 0)).numpy()


CONSISTENCY = Metric(
    "consistency",
    "Features of two frames, each rendered from its own image, where optical flow finds the same pixels in both: norms "
    "of their difference, and cosine; mean over pairs.",
    columns("shared: pixels in both") + columns("l1: L1 ↓, l2: L2 ↓, cosine: cosine ↑", percent=False),
    ViewTally,
    by=("target",),
)
