"""Lightning data module: scenes of points, in samples of two views with a mask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from scene_completion_training.arrays import Random
from scene_completion_training.data.module import DataSource, FileSamples, TrainingData, matching
from scene_completion_training.data.store import keyed
from scene_completion_training.masked_scene.views import (
    VERSION,
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


class SceneSamples(FileSamples):
    """The samples of scenes, two `views` of each, of which `mask` hides a part of the student's."""

    def __init__(
        self,
        groups: Sequence[Sequence[Path]],  # files of the scenes of each source
        shares: Sequence[float],
        views: MakeViews,  # makes two views of the scene of a file
        mask: MaskSettings,
        *,
        seed: int,
        length: int,
    ) -> None:
        super().__init__(groups, shares, seed=seed, length=length)
        self.views, self.mask = views, mask

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """What the two views show, what the student's hides, and the P places in it, which both views have.

        Of each view, `*_index` int64 [N, 3], `*_features` float32 [N, F] and `*_points` float32 [P, 3], see `View`;
        `masked` bool [N] are the hidden voxels of the student's.
        """
        file, generator = self.drawn(number)
        views = self.views(file, generator)
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
        self, settings: SceneDataSettings, views: SceneViewSettings, mask: MaskSettings, *, steps: int, seed: int
    ) -> None:
        super().__init__(settings, steps=steps, seed=seed)
        self.views, self.mask = views, mask
        self.groups: list[list[Path]] = []

    def record(self) -> dict[str, Any]:
        """How many scenes there were, by source."""
        return {"scenes": {files[0].parent.name: len(files) for files in self.groups}}

    def setup(self, stage: str) -> None:
        """Fills the cache; a ConfigurationError where there is no source."""
        if self.groups:
            return
        self.require_sources("scenes of points")
        root = Path(self.settings.root)
        for source in matching(root, self.settings.sources):
            folder = source.place(root)
            entry = self.store.entry("scenes of points", keyed(folder.name, [VERSION, str(folder), source.split]))
            self.groups.append(keep_points(open_scenes(folder, split=source.split), entry))
            self.shares.append(source.share)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        size = self.settings.voxel_size
        make = partial(point_views, settings=self.views, voxel_size=size, shift=self.mask.edge)
        samples = SceneSamples(self.groups, self.shares, make, self.mask, seed=self.seed, length=self.length)
        return self.served(samples, collate_fn=in_one)
