"""Teachers that say something of pixels: foundation models, files that others wrote, and labels of rendered rooms."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_ros.untrusted_files import read_array, read_tensors
from scene_completion_training.foundation.dense_extractor import DenseExtractor
from scene_completion_training.foundation.feature_lifter import FeatureLifter, TokenMaps
from scene_completion_training.foundation.teachers import open_teacher
from scene_completion_training.foundation.text_encoder import BARE
from scene_completion_training.losses.agglomeration import TeacherSpec
from scene_completion_training.points.label_sets import OTHERS
from scene_completion_training.points.scene import PointScene, RgbdView

LABELS, FILES = "labels", "files:"


@dataclass
class PixelTeacher(TeacherSpec):
    """A foundation model whose features of pixels are lifted to points."""

    dim: int = 0  # numbers of one of its features
    model: str = ""  # what `open_teacher` opens; `files:FOLDER` for `FeatureFiles`, or "labels" for `ExactLabels`
    layer: int = -1  # see `open_teacher`
    cell: int = 14  # pixels of the resized image along the side of a token of a model
    text_bank: str = ""  # of "labels", the bank that the classes of the scene are phrases of
    noise: float = 0.0  # of "labels", standard deviation of the noise in each channel

    def open(self, device: str = "cpu") -> "PixelFeatures":
        """Opens it; errors as of `open_teacher`, `ExactLabels` and `FeatureFiles`."""
        if self.model == LABELS:
            return ExactLabels(TextBank.load(self.text_bank), self.noise)
        if self.model.startswith(FILES):
            return FeatureFiles(Path(self.model.removeprefix(FILES)))
        return ExtractedFeatures(open_teacher(self.model, self.layer, device), self.cell)


class PixelFeatures(Protocol):
    """Says something of the pixels of views."""

    @property
    def key(self) -> str:
        """What its features follow from, besides the image."""

    def at(self, scene: PointScene, view: RgbdView, image: NDArray[np.uint8], pixels: Tensor) -> Tensor:
        """Features [N, D] of pixels.

        `image`: RGB [H, W, 3], that of the view in the size of the training; `pixels`: whole numbers x, y of this
        image, float [N, 2].
        """


class ExtractedFeatures:
    """What a foundation model says: its tokens, interpolated between their centres."""

    def __init__(self, extractor: DenseExtractor, cell: int) -> None:
        self._extractor, self._cell = extractor, cell

    @cached_property
    def key(self) -> str:
        """See `PixelFeatures`; reads the weights."""
        identity = dataclasses.replace(self._extractor.identity, name="", text_encoder="")
        return f"{identity} in cells of {self._cell}"

    def at(self, scene: PointScene, view: RgbdView, image: NDArray[np.uint8], pixels: Tensor) -> Tensor:
        """See `PixelFeatures`."""
        shown = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        tokens = self._extractor.features(shown, self._cell).cpu()
        return FeatureLifter.sampled(TokenMaps(tokens, torch.zeros(1, 2), self._cell), 0, pixels)


class FeatureFiles:
    """What a network that is not in here said of each view: FOLDER/SCENE/VIEW.safetensors, or .npy.

    The first holds one tensor "features", the second one array: floats [D, h, w] that cover the image evenly, whatever
    h and w are. Pickles are not read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.key = f"files of {folder.resolve()}"

    def at(self, scene: PointScene, view: RgbdView, image: NDArray[np.uint8], pixels: Tensor) -> Tensor:
        """See `PixelFeatures`; a `ConfigurationError` where the file is missing or holds nothing such."""
        cure = "Write [D, h, w] features of each view there, see docs/reproduce.md"
        file = self._folder / scene.name / f"{view.name}.npy"
        if file.is_file():
            found = read_array(file, ConfigurationError, cure=cure)
        else:
            file = file.with_suffix(".safetensors")
            found = read_tensors(file, ConfigurationError, cure=cure).get("features", np.zeros(0))
        if found.ndim != 3 or found.dtype.kind != "f" or not found.size:
            raise ConfigurationError(f"holds {found.dtype} {found.shape}", where=str(file), cure=cure)
        cell = torch.tensor([image.shape[1] / found.shape[2], image.shape[0] / found.shape[1]])
        values = torch.from_numpy(np.array(found, np.float32))[None]
        return FeatureLifter.sampled(TokenMaps(values, torch.zeros(1, 2), cell), 0, pixels)


class ExactLabels:
    """A text-aligned 2D model that errs as much as it is set to: the embedding of each pixel's class, and noise.

    It stands in for LSeg on rendered rooms, whose views have exact labels. Every channel of an embedding of length one
    gets Gaussian noise that follows from scene, view and pixel. Pixels without a label have a feature of zeros.
    """

    def __init__(self, bank: TextBank, noise: float) -> None:
        self._bank, self._noise = bank, noise
        self.key = f"labels by {bank.sha256} with noise {noise}"

    def at(self, scene: PointScene, view: RgbdView, image: NDArray[np.uint8], pixels: Tensor) -> Tensor:
        """See `PixelFeatures`; a `ConfigurationError` where the view has no labels."""
        if view.label is None:
            cure = "Take rendered rooms with labels, or another model"
            raise ConfigurationError("its views have no labels", where=f"scene {scene.name}", cure=cure)
        label = view.label()
        scale = torch.tensor([label.shape[1] / image.shape[1], label.shape[0] / image.shape[0]])
        column, row = ((pixels + 0.5) * scale).long().numpy().T
        shown = label[row, column]
        rows = np.concatenate([phrase_rows(self._bank, scene.classes), np.zeros((1, self._bank.dimension), np.float32)])
        found = torch.from_numpy(rows[np.where(shown < 0, len(rows) - 1, shown)])
        places, of = np.unique(row.astype(np.int64) * label.shape[1] + column, return_inverse=True)
        seed = int.from_bytes(f"{scene.name}/{view.name}".encode(), "little")
        noise = np.random.default_rng(seed).normal(0.0, self._noise, (len(places), found.shape[1]))
        return found + torch.from_numpy(noise[of].astype(np.float32) * (shown >= 0)[:, None])


def phrase_rows(bank: TextBank, classes: Sequence[str]) -> NDArray[np.float32]:
    """The embedding of each class, float32 [K, D], of length one; a `VocabularyError` if the bank lacks a phrase."""
    return bank.rows(phrases(classes))


def phrases(classes: Sequence[str]) -> list[str]:
    """What classes are called in a sentence: what is none of the others is "other", wherever it stands."""
    return [BARE if name in OTHERS else name for name in classes]
