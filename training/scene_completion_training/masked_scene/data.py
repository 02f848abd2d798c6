"""Lightning data module: scenes of recordings, in samples of two views with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.shipped import open_student
from scene_completion_training.data.module import DataSource, TrainingData, load_sequence, matching
from scene_completion_training.masked_scene.scenes import Kind, SceneMaker, VoxelScene, keep_scenes
from scene_completion_training.masked_scene.views import SceneViewSettings, masked_voxels, sample_rows, view


@dataclass
class SceneSource(DataSource):
    """A recording whose frames become scenes.

    Attributes:
        kinds: Where the voxels come from: "predicted" by the student, "exact" of a rendered town, fused from "stereo"
            depth, or "lidar". Each kind of a recording has its own share of the samples.
        frames: Frames that are used, by default all: LiDAR labels belong to the first of a KITTI window.
    """

    kinds: list[Kind] = field(default_factory=lambda: list[Kind](["predicted"]))
    frames: list[int] | None = None


@dataclass
class SceneDataSettings:
    """Scenes of a training.

    Attributes:
        root: Folder the sources are relative to.
        student: Bundle, folder or name, that predicts voxels; "auto" for the shipped one.
        voxel_size: Edge of the voxels that the network is made for, metres.
        cache: Folder for scenes.
        batch_size: Scenes a step.
    """

    root: str = "."
    sources: list[SceneSource] = field(default_factory=list)
    student: str = "auto"
    voxel_size: float = 0.2
    cache: str = "scenes"
    batch_size: int = 2
    workers: int = 1


@dataclass(frozen=True)
class MaskSettings:
    """Which voxels of a sample are hidden; see `masked_voxels`."""

    edge: int
    ratio: float


class SceneSamples(Dataset[dict[str, Tensor]]):
    """Samples of a training by number; everything random in one follows from seed and number.

    Args:
        groups: Files of scenes of each recording and kind.
        shares: Factor on the share of samples of each group, which grows with the square root of its length.
        edge: Voxels along x and along y of the square in which views are turned.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Path]],
        shares: Sequence[float],
        settings: SceneViewSettings,
        mask: MaskSettings,
        *,
        edge: int,
        seed: int,
        length: int,
    ) -> None:
        self.groups, self.settings, self.mask, self.edge = groups, settings, mask, edge
        self.seed, self.length = seed, length
        weights = np.array([share * len(files) ** 0.5 for share, files in zip(shares, groups, strict=True)])
        self.probability = weights / weights.sum()

    def __len__(self) -> int:
        """Samples of the whole training."""
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Places int64 [N, 3] and features float32 [N, F] of both views, and what is masked in the student's, [N]."""
        generator = np.random.default_rng((self.seed, number))
        files = self.groups[int(generator.choice(len(self.groups), p=self.probability))]
        scene = VoxelScene.load(files[int(generator.integers(len(files)))])
        rows = sample_rows(scene, self.settings, generator)
        index, features = scene.index[rows], scene.features[rows]
        sample: dict[str, Tensor] = {}
        for name in ("student", "teacher"):
            place, seen = view(index, features, self.edge, self.settings, generator)
            sample |= {f"{name}_index": torch.from_numpy(place), f"{name}_features": torch.from_numpy(seen)}
        masked = masked_voxels(sample["student_index"].numpy(), self.mask.edge, self.mask.ratio, generator)
        return sample | {"masked": torch.from_numpy(masked)}


def in_one(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch: places become [N, 4] with the number of the scene in front, of all scenes one behind the other."""
    batch = {}
    for name in samples[0]:
        parts = [sample[name] for sample in samples]
        if name.endswith("_index"):
            parts = [torch.nn.functional.pad(part, (1, 0), value=number) for number, part in enumerate(parts)]
        batch[name] = torch.cat(parts)
    return batch


class SceneData(TrainingData):
    """Serves `SceneSamples` of the recordings of a configuration.

    Args:
        step: Voxels along an edge of the coarsest level's voxels.
        steps: Optimiser steps of the whole training.

    Attributes:
        shape: Voxels of the grid that holds every view along x, y, z, once it is set up.
    """

    def __init__(
        self,
        settings: SceneDataSettings,
        views: SceneViewSettings,
        mask: MaskSettings,
        *,
        step: int,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.settings, self.views, self.mask = settings, views, mask
        self.step, self.steps, self.seed = step, steps, seed
        self.groups: list[list[Path]] = []
        self.shares: list[float] = []
        self.shape = (0, 0, 0)

    def record(self) -> dict[str, Any]:
        """How many scenes there were, by recording and kind."""
        return {"scenes": {files[0].parent.name: len(files) for files in self.groups}}

    def setup(self, stage: str) -> None:
        """Makes what is missing in the cache.

        Raises:
            ConfigurationError: There is no source, or its voxels have another size.
        """
        if self.groups:
            return
        settings, root = self.settings, Path(self.settings.root)
        if not settings.sources:
            raise ConfigurationError("names no recording", where="data.sources", cure="Name folders of sequences")
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
        self.shape = (edge, edge, max(scene.grid.shape[2] for scene in first))

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        settings = self.settings
        samples = SceneSamples(
            self.groups,
            self.shares,
            self.views,
            self.mask,
            edge=self.shape[0],
            seed=self.seed,
            length=self.steps * settings.batch_size * self.processes,
        )
        return DataLoader(
            samples,
            batch_size=settings.batch_size,
            sampler=self.sampler(len(samples), settings.batch_size),
            num_workers=settings.workers,
            collate_fn=in_one,
        )
