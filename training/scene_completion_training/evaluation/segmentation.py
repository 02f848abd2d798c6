"""Segmentation of images by the features of a field, rendered into the image that it has seen (SceneDINO, section 4).

Every pixel gets the features of its ray. Clusters of them are found among pixels of training images without labels, and
named by labelled validation images. Linear probes are trained on the labels of training images: what the features hold.
Published (Jevtić et al., ICCV 2025): images of KITTI-360 are brought to the size of the network's; those of Cityscapes
and BDD100K to its width at half as many rows, of which the middle is seen. Cluster centres and probes are trained
with the head; here centres are k-means of the finished features, and probes are trained after it.

Scores are accuracy and mean IoU of pixels over Cityscapes' 19 classes. Labels are classes, or clusters with names from
other images than the scored ones. SceneDINO (Jevtić et al., ICCV 2025) names clusters by the scored images themselves:
that row is an upper bound.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.metric import Metric, Row, Tally, columns
from scene_completion_ros.evaluation.semantic_classes import CITYSCAPES_CLASSES, INVALID
from scene_completion_ros.evaluation.semantics import class_confusion, class_iou, match_one_to_one, mean_iou, renamed
from scene_completion_ros.geometry import Camera
from scene_completion_training.arrays import Bytes, Floats, Ints
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.clustering import fit_clusters
from scene_completion_training.data.label_images import LabelledImage
from scene_completion_training.evaluation.checkpoints import CanonicalImages
from scene_completion_training.evaluation.probes import LinearProbe
from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel
from scene_completion_training.networks.feature_field import DROPOUT
from scene_completion_training.rendering import rendered_features

CLASSES = len(CITYSCAPES_CLASSES)
# Where the labels of a method have their classes from.
NAMED_BEFORE, NAMED_BY_SCORED, LEARNED = "validation images", "the scored images (upper bound)", "learned from labels"


@dataclass(frozen=True, eq=False)
class SegmentationAnswer:
    """Labels of the pixels of an image [N], and their true classes, uint8 [N], by train id; 255 does not count."""

    labels: Ints
    truth: Bytes


class SegmentationTally(Tally):
    """Confusion of labels with classes over all pixels of all images.

    Methods have `labels`, the number of their labels, and `naming`: their classes [labels], None where they are these.
    """

    def __init__(self, labels: int, naming: Ints | None) -> None:
        self._naming = naming
        self.confusion = np.zeros((labels, CLASSES), np.int64)  # int64 [labels, 19]

    def add(self, answer: SegmentationAnswer) -> None:
        """Count an image, if any of its pixels has a class."""
        found = class_confusion(answer.labels, answer.truth, len(self.confusion), CLASSES)
        self.confusion += found
        self.frames += bool(found.any())

    def rows(self) -> Iterator[Row]:
        """With the classes of the labels; of clusters also with those that fit the scored images best."""
        if self._naming is None:
            yield self._row(LEARNED, np.arange(CLASSES))
            return
        yield self._row(NAMED_BEFORE, self._naming)
        yield self._row(NAMED_BY_SCORED, match_one_to_one(self.confusion))

    def _row(self, naming: str, classes: Ints) -> Row:
        confusion = renamed(self.confusion, classes)
        iou, true = class_iou(confusion), confusion.sum(axis=0)
        return {
            "named_by": naming,
            "pixels": int(true.sum()),
            "mean_iou": mean_iou(iou),
            "mean_iou_of_true": mean_iou(iou[true > 0]),
            "accuracy": float(np.trace(confusion) / true.sum()) if true.any() else float("nan"),
            "class_iou": dict(zip(CITYSCAPES_CLASSES, iou.tolist(), strict=True)),
        }


SEGMENTATION = Metric(
    "segmentation",
    "Classes of pixels, in percent. The mean is over all 19 classes of Cityscapes; those that are nowhere count as 0. "
    "Next to it stands the mean over the classes that occur in the truth.",
    columns("mean_iou: mIoU, mean_iou_of_true: mIoU of classes there, accuracy"),
    lambda method: SegmentationTally(method.labels, method.naming),
    by=("named_by",),
    classes="class_iou",
)


POINTS = 200  # pixels of an image that are clustered
PROBE_BATCH, PROBE_RATE = 4, 5e-3
_CHUNK = 1 << 14  # pixels in memory at a time, with their expanded features

Space: TypeAlias = Callable[[Tensor], Tensor]  # features of rays [N, channels] -> what distinguishes pixels [N, D]


class RenderedField:
    """A feature field (of stage feature_field or semantics) that renders its features into labelled images.

    An image is resampled by its camera, if that is known; others count as taken by `stand_in_camera`. `spaces`:
    "features" are the expanded ones, of length one; "head" is what the second stage makes of them. Raises BundleError
    where the checkpoint holds no feature field.
    """

    def __init__(self, path: Path) -> None:
        model = FeatureFieldModel.open(path)
        self.name, self.device, self.field = model.name, model.device, model.field
        stored = Checkpoint.read(path)
        self.camera, self._images = stored.camera, CanonicalImages(self.field.camera, stored.half_resolution)
        self.spaces: dict[str, Space] = {"features": self.field.codes}
        if model.head is not None:
            self.spaces["head"] = model.codes
        # All methods label an image before any of them labels the next one.
        self.features, self.labels = lru_cache(maxsize=1)(self._features), lru_cache(PROBE_BATCH)(self._labels)

    @property
    def space(self) -> str:
        """The last space: that in which pixels are clustered."""
        return list(self.spaces)[-1]

    def _source(self, image: LabelledImage, width: int, height: int) -> Camera:
        """The camera that an image of this size counts as taken by."""
        return image.camera or stand_in_camera(self.field.camera, width, height)

    def _features(self, image: LabelledImage) -> Tensor:
        """Features of all pixels of the network's image of an image [H · W, channels]."""
        pixels = image.image()
        seen_as = self._images.of(pixels, self._source(image, pixels.shape[1], pixels.shape[0]))
        with torch.no_grad():
            seen = self.field.observe(seen_as[None].to(self.device))
        spec = self.field.spec
        parts = rendered_features(seen, self.camera, near=spec.near, far=spec.far, device=self.device)
        with torch.no_grad():
            return torch.cat(list(parts))

    def _labels(self, image: LabelledImage) -> Bytes:
        """Train ids of the same pixels [H · W]."""
        labels = image.labels()
        return labels_through(labels, self._source(image, labels.shape[1], labels.shape[0]), self.camera).reshape(-1)


def stand_in_camera(target: Camera, width: int, height: int) -> Camera:
    """The camera of which a target sees all the width and the rows in the middle, where the real one is unknown.

    An image of any proportions is brought to the target's width at half as many rows (or all of the target's).
    """
    rows = max(target.height, target.width // 2)
    whole = dataclasses.replace(target, height=rows, cy=target.cy + (rows - target.height) // 2)
    return whole.resized(width, height)


def labels_through(labels: Bytes, source: Camera, target: Camera) -> Bytes:
    """Labels [H_t, W_t] of a target's pixels, the nearest in those [H, W] of a source at its place; 255 unseen."""
    pixels, shown = source.project(target.unproject(target.pixel_centres()))
    nearest = np.floor(np.asarray(pixels) + (0.5 + 1e-6)).astype(np.int64)
    u, v = (nearest[..., axis].clip(0, size - 1) for axis, size in enumerate((source.width, source.height)))
    return np.where(np.asarray(shown), labels[v, u], np.uint8(INVALID))


@dataclass(frozen=True, eq=False)
class PixelLabels:
    """Labels of pixels by what is rendered, as a method that is scored (see `SegmentationTally`)."""

    name: str
    rendered: RenderedField
    space: str
    assign: Callable[[Floats], Ints]
    labels: int = CLASSES  # how many different ones there are
    naming: Ints | None = None  # the class of each label; None where labels are classes

    def answer(self, image: LabelledImage) -> SegmentationAnswer:
        """Label an image."""
        space, parts = self.rendered.spaces[self.space], torch.split(self.rendered.features(image), _CHUNK)
        with torch.no_grad():
            found = [self.assign(space(part).cpu().numpy()) for part in parts]
        return SegmentationAnswer(np.concatenate(found), self.rendered.labels(image))


def cluster_pixels(rendered: RenderedField, images: Sequence[LabelledImage], *, seed: int) -> PixelLabels:
    """As many clusters of training images' pixels as there are classes; a `ConfigurationError` for too few pixels."""
    generator = torch.Generator().manual_seed(seed)
    codes = []
    for image in images:
        features = rendered.features(image)
        chosen = torch.randperm(len(features), generator=generator)[:POINTS].to(features.device)
        with torch.no_grad():
            codes.append(rendered.spaces[rendered.space](features[chosen]).cpu().numpy())
    clusters = fit_clusters(np.concatenate(codes), CLASSES, seed=seed)
    name = f"{rendered.name}, clusters"
    return PixelLabels(name, rendered, rendered.space, clusters.assign, naming=np.zeros(CLASSES, np.int64))


def named_by_images(clusters: PixelLabels, images: Sequence[LabelledImage]) -> PixelLabels:
    """The clusters with classes that they meet most in labelled images, one to one; a `ConfigurationError` for none."""
    tally = SegmentationTally(clusters.labels, None)
    for image in images:
        tally.add(clusters.answer(image))
    if not tally.frames:
        raise ConfigurationError("no pixel has a class", where="names of clusters", cure="Name other validation images")
    return dataclasses.replace(clusters, naming=match_one_to_one(tally.confusion))


def fit_pixel_probes(
    rendered: RenderedField, images: Sequence[LabelledImage], *, steps: int, seed: int
) -> Mapping[str, LinearProbe]:
    """Linear probes of each space of a field: cross entropy of all labelled pixels of four images a step, by Adam.

    As in SceneDINO, channels of the expanded features are left out at random. Raises ConfigurationError where a step
    sees no pixel that counts: too little is labelled.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, nn.Linear] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, space in rendered.spaces.items():
            size = space(torch.zeros(1, rendered.field.channels, device=rendered.device)).shape[1]
            layers[name] = nn.Linear(size, CLASSES).to(rendered.device)
    optimizer = torch.optim.Adam([weight for layer in layers.values() for weight in layer.parameters()], PROBE_RATE)
    for _ in range(steps):
        batch = [images[k] for k in torch.randint(len(images), (PROBE_BATCH,), generator=generator).tolist()]
        count = sum(int((rendered.labels(image) != INVALID).sum()) for image in batch)
        if not count:
            raise ConfigurationError("no pixel has a class", where="--probe-on", cure="Name other training images")
        optimizer.zero_grad()
        for image in batch:
            features = rendered.features(image)
            classes = torch.from_numpy(rendered.labels(image)).long().to(rendered.device)
            kept = (torch.rand(layers["features"].in_features, generator=generator) >= DROPOUT) / (1.0 - DROPOUT)
            for part, truth in zip(*(torch.split(of, _CHUNK) for of in (features, classes)), strict=True):
                for name, layer in layers.items():
                    with torch.no_grad():
                        values = rendered.spaces[name](part)
                        values = values * kept.to(values) if name == "features" else values
                    loss = functional.cross_entropy(layer(values), truth, ignore_index=INVALID, reduction="sum")
                    torch.autograd.backward(loss / count)
        optimizer.step()
    learned = {name: (layer.weight, layer.bias) for name, layer in layers.items()}
    return {name: LinearProbe(*(part.detach().cpu().numpy() for part in parts)) for name, parts in learned.items()}
