"""Lightning data module: scenes of points, in samples of two views with a mask."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.arrays import Random
from scene_completion_training.data.module import DataSource, TrainingData, matching
from scene_completion_training.masked_scene.views import (
    SceneViewSettings,
    View,
    keep_points,
    masked_voxels,
    point_views,
)
from scene_completion_training.points.opening import open_scenes

MakeViews = Callable[[Path, Random], tuple[View, View]]


@dataclass
class SceneSource(DataSource):
    """A folder of scenes of points, see `open_scenes`."""

    split: str = ""  # "train", "val" or "test" by the official lists; by default all


@dataclass
class SceneDataSettings:
    """Scenes of a training."""

    root: str = "."  # folder the sources are relative to
    sources: list[SceneSource] = field(default_factory=list)
    voxel_size: float = 0.2  # edge of the voxels that the network is made for, metres
    cache: str = "scenes"  # folder for scenes
    batch_size: int = 2  # scenes a step
    workers: int = 1


@dataclass(frozen=True)
class MaskSettings:
    """Which voxels of a sample are hidden; see `masked_voxels`."""

    edge: int
    ratio: float


class SceneSamples(Dataset[dict[str, Tensor]]):
    """Samples of a training by number; everything random in one follows from seed and number."""

    def __init__(
        self,
        groups: Sequence[Sequence[Path]],  # files of the scenes of each source
        # Factor on the share of samples of each group, which grows with the square root of its length.
        shares: Sequence[float],
        views: MakeViews,  # makes two views of the scene of a file
        mask: MaskSettings,
        *,
        seed: int,
        length: int,
    ) -> None:
        self.groups, self.views, self.mask = groups, views, mask
        self.seed, self.length = seed, length
        weights = np.array([share * len(files) ** 0.5 for share, files in zip(shares, groups, strict=True)])
        self.probability = weights / weights.sum()

    def __len__(self) -> int:
        """Samples of the whole training."""
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """What the two views show, what the student's hides, and the P places in it, which both views have.

        Of each view, `*_index` int64 [N, 3], `*_features` float32 [N, F] and `*_points` float32 [P, 3], see `View`;
        `masked` bool [N] are the hidden voxels of the student's.
        """
        generator = np.random.default_rng((self.seed, number))
        files = self.groups[int(generator.choice(len(self.groups), p=self.probability))]
        views = self.views(files[int(generator.integers(len(files)))], generator)
        masked = masked_voxels(views[0].index, self.mask.edge, self.mask.ratio, generator)
        hidden = masked[views[0].voxel]
        sample = {"masked": torch.from_numpy(masked)}
        for name, one in zip(("student", "teacher"), views, strict=True):
            arrays = {"index": one.index, "features": one.features, "points": one.points[hidden]}
            sample |= {f"{name}_{kind}": torch.from_numpy(array) for kind, array in arrays.items()}
        return sample


def in_one(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch: all scenes one behind the other; places become [N, 4] with the number of the scene in front."""
    batch = {}
    for name in samples[0]:
        parts = [sample[name] for sample in samples]
        if name.endswith(("_index", "_points")):
            parts = [torch.nn.functional.pad(part, (1, 0), value=number) for number, part in enumerate(parts)]
        batch[name] = torch.cat(parts)
    return batch


class SceneData(TrainingData):
    """Serves `SceneSamples` of the sources of a configuration."""

    def __init__(
        self,
        settings: SceneDataSettings,
        views: SceneViewSettings,
        mask: MaskSettings,
        *,
        steps: int,  # optimiser steps of the whole training
        seed: int,
    ) -> None:
        super().__init__()
        self.settings, self.views, self.mask = settings, views, mask
        self.steps, self.seed = steps, seed
        self.groups: list[list[Path]] = []
        self.shares: list[float] = []

    def record(self) -> dict[str, Any]:
        """How many scenes there were, by source."""
        return {"scenes": {files[0].parent.name: len(files) for files in self.groups}}

    def setup(self, stage: str) -> None:
        """Fills the cache; a ConfigurationError where there is no source."""
        if self.groups:
            return
        settings, root = self.settings, Path(self.settings.root)
        if not settings.sources:
            raise ConfigurationError("names no scenes", where="data.sources", cure="Name folders of scenes of points")
        for source in matching(root, settings.sources):
            folder = source.place(root)
            key = hashlib.sha256(f"{folder} {source.split}".encode()).hexdigest()[:12]
            kept = Path(settings.cache) / f"{folder.name}-points-{key}"
            self.groups.append(keep_points(open_scenes(folder, split=source.split), kept))
            self.shares.append(source.share)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        length = self.steps * self.settings.batch_size * self.processes
        size = self.settings.voxel_size
        make = partial(point_views, settings=self.views, voxel_size=size, shift=self.mask.edge)
        samples = SceneSamples(self.groups, self.shares, make, self.mask, seed=self.seed, length=length)
        return self.served(samples, self.settings, collate_fn=in_one)
