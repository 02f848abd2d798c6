"""Lightning data module: scenes of recordings, in samples of two views with a mask."""

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
from scene_completion_ros.inference.shipped import open_student
from scene_completion_training.arrays import Random
from scene_completion_training.data.module import DataSource, TrainingData, load_sequence, matching
from scene_completion_training.masked_scene.scenes import FEATURES, Kind, SceneMaker, VoxelScene, keep_scenes
from scene_completion_training.masked_scene.views import (
    POINT_FEATURES,
    SceneViewSettings,
    View,
    keep_points,
    masked_voxels,
    point_views,
    voxel_views,
)

MakeViews = Callable[[Path, Random], tuple[View, View]]


@dataclass
class SceneSource(DataSource):
    """A recording whose frames become scenes, or a folder of scenes of points."""

    # Where the voxels come from: "predicted" by the student, "exact" of a rendered town, fused from "stereo" depth, or
    # "lidar"; or "points" of rooms, see `open_scenes`. Each kind of a recording has its own share of the samples. A
    # training has scenes of points alone, or none.
    kinds: list[Kind] = field(default_factory=lambda: list[Kind](["predicted"]))
    # Frames that are used, by default all: LiDAR labels belong to the first of a KITTI window.
    frames: list[int] | None = None
    split: str = ""  # "train", "val" or "test" of scenes of points, by the official lists; by default all


@dataclass
class SceneDataSettings:
    """Scenes of a training."""

    root: str = "."  # folder the sources are relative to
    sources: list[SceneSource] = field(default_factory=list)
    student: str = "auto"  # bundle, folder or name, that predicts voxels; "auto" for the shipped one
    voxel_size: float = 0.2  # edge of the voxels that the network is made for, metres
    cache: str = "scenes"  # folder for scenes
    batch_size: int = 2  # scenes a step
    workers: int = 1

    @property
    def of_points(self) -> bool:
        """Whether scenes are of points. Raises ConfigurationError where some are, some are not."""
        kinds = {kind for source in self.sources for kind in source.kinds}
        if "points" in kinds and len(kinds) > 1:
            what = f"scenes of {', '.join(sorted(kinds))} have different features"
            raise ConfigurationError(what, where="data.sources", cure="Train on scenes of points alone, or on none")
        return "points" in kinds

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features of voxels."""
        return POINT_FEATURES if self.of_points else FEATURES


@dataclass(frozen=True)
class MaskSettings:
    """Which voxels of a sample are hidden; see `masked_voxels`."""

    edge: int
    ratio: float


class SceneSamples(Dataset[dict[str, Tensor]]):
    """Samples of a training by number; everything random in one follows from seed and number."""

    def __init__(
        self,
        groups: Sequence[Sequence[Path]],  # files of scenes of each recording and kind
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
    """Serves `SceneSamples` of the recordings of a configuration."""

    def __init__(
        self,
        settings: SceneDataSettings,
        views: SceneViewSettings,
        mask: MaskSettings,
        *,
        step: int,  # voxels along an edge of the coarsest level's voxels
        steps: int,  # optimiser steps of the whole training
        seed: int,
    ) -> None:
        super().__init__()
        self.settings, self.views, self.mask = settings, views, mask
        self.step, self.steps, self.seed = step, steps, seed
        self.groups: list[list[Path]] = []
        self.shares: list[float] = []
        self.make_views: MakeViews

    def record(self) -> dict[str, Any]:
        """How many scenes there were, by recording and kind."""
        return {"scenes": {files[0].parent.name: len(files) for files in self.groups}}

    def setup(self, stage: str) -> None:
        """Fills the cache; a ConfigurationError where there is no source, or its voxels have another size."""
        if self.groups:
            return
        settings, root = self.settings, Path(self.settings.root)
        if not settings.sources:
            raise ConfigurationError("names no recording", where="data.sources", cure="Name folders of sequences")
        if settings.of_points:
            from scene_completion_training.points.opening import open_scenes

            for source in matching(root, settings.sources):
                folder = source.place(root)
                key = hashlib.sha256(f"{folder} {source.split}".encode()).hexdigest()[:12]
                kept = Path(settings.cache) / f"{folder.name}-points-{key}"
                self.groups.append(keep_points(open_scenes(folder, split=source.split), kept))
                self.shares.append(source.share)
            size = settings.voxel_size
            self.make_views = partial(point_views, settings=self.views, voxel_size=size, shift=self.mask.edge)
            return
        for source in matching(root, settings.sources):
            sequence = load_sequence(root, source)
            for kind in source.kinds:
                student = open_student(settings.student) if kind == "predicted" else None
                maker = SceneMaker(sequence, kind, student=student)
                self.groups.append(keep_scenes(maker, Path(settings.cache), source.frames))
                self.shares.append(source.share)
        first = [VoxelScene.load(file) for files in self.groups for file in files[:1]]
        for scene in first:
            size = scene.grid.voxel_size
            if abs(size - settings.voxel_size) > 1e-6:
                what = f"voxels of {scene.name} have {size:g} m, those of the network {settings.voxel_size:g}"
                cure = "Set it to the voxels of the recordings, which have to be the same for all"
                raise ConfigurationError(what, where="data.voxel_size", cure=cure)
        edge = -(-max(max(scene.grid.shape[:2]) for scene in first) // self.step) * self.step
        self.make_views = partial(voxel_views, settings=self.views, edge=edge)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        length = self.steps * self.settings.batch_size * self.processes
        samples = SceneSamples(self.groups, self.shares, self.make_views, self.mask, seed=self.seed, length=length)
        return self.served(samples, self.settings, collate_fn=in_one)
