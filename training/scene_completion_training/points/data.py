"""Lightning data module: scenes of points with lifted features, in samples of voxels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.arrays import Floats, Ints
from scene_completion_training.data.module import TrainingData
from scene_completion_training.masked_scene.data import in_one
from scene_completion_training.networks.agglomerated_field import INPUTS
from scene_completion_training.points.lifting import (
    LiftedScene,
    LiftingSettings,
    PixelTeacher,
    keep_lifted,
)
from scene_completion_training.points.opening import Scenes, open_scenes
from scene_completion_training.points.voxels import turned, voxelised
from scene_completion_training.workers import accelerator

Input: TypeAlias = Literal["ones", "colour"]


@dataclass
class PointSource:
    """Scenes of a training, see `open_scenes`; the folder is relative to the data root."""

    folder: str
    labels: str = ""
    split: str = ""
    listed: str = ""
    every: int = 1
    voxel: float | None = None
    up: str = ""

    def open(self, root: Path) -> Scenes:
        """Its scenes; errors as of `open_scenes`."""
        options = {name: value for name, value in vars(self).items() if name not in ("folder", "listed")}
        return open_scenes(root / self.folder, listed=self.listed or None, **options)


@dataclass
class PointDataSettings:
    """Scenes of a training."""

    root: str = "."  # folder the sources are relative to
    sources: list[PointSource] = field(default_factory=list)
    voxel_size: float = 0.02  # edge of the voxels that the network is made for, metres
    # What a voxel says of itself: "ones", so that geometry alone is seen (CUA-O3D), or its colour.
    input: Input = "ones"
    cache: str = "lifted"  # folder for lifted features
    batch_size: int = 4  # scenes a step
    workers: int = 1


def voxel_inputs(colours: Floats, chosen: Ints, kind: Input) -> Floats:
    """What goes into the network for voxels, float32 [V, 3]: ones, or the colours, -1..1, of chosen points."""
    return np.ones((len(chosen), INPUTS), np.float32) if kind == "ones" else 2.0 * colours[chosen] - 1.0


class PointSamples(Dataset[dict[str, Tensor]]):
    """Samples of a training by number, each scene once an epoch; everything random follows from seed and number."""

    def __init__(self, scenes: Sequence[LiftedScene], settings: PointDataSettings, *, seed: int, length: int) -> None:
        self.scenes, self.settings, self.seed, self.length = scenes, settings, seed, length

    def __len__(self) -> int:
        """Samples of the whole training."""
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Voxels int64 [V, 3], inputs float32 [V, 3], which have targets, bool [V], and of each teacher these [K, D].

        The target of a voxel is that of one of its points.
        """
        epoch, place = divmod(number, len(self.scenes))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.scenes))
        scene, generator = self.scenes[order[place]], np.random.default_rng((self.seed, epoch, place))
        found = voxelised(turned(scene.points, generator), self.settings.voxel_size, generator)
        known = np.isin(found.chosen, scene.rows)
        inputs = voxel_inputs(scene.colours, found.chosen, self.settings.input)
        arrays = {"voxel_index": found.index, "inputs": inputs, "known": known}
        sample = {name: torch.from_numpy(array) for name, array in arrays.items()}
        rows = np.searchsorted(scene.rows, found.chosen[known])
        return sample | {f"target/{name}": torch.from_numpy(of[rows]) for name, of in scene.features.items()}


class PointData(TrainingData):
    """Serves `PointSamples` of the sources of a configuration."""

    def __init__(
        self, given: PointDataSettings, teachers: list[PixelTeacher], lifting: LiftingSettings, *, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.settings, self.teachers, self.lifting = given, teachers, lifting
        self.steps, self.seed = steps, seed
        self.scenes: dict[str, LiftedScene] = {}

    def record(self) -> dict[str, Any]:
        """Which scenes there were."""
        return {"scenes": list(self.scenes)}

    def setup(self, stage: str) -> None:
        """Lifts what is missing in the cache.

        Raises ConfigurationError where there is no source, a scene lacks the colours that go in, or a teacher has
        features of another dimension.
        """
        if self.scenes:
            return
        if not self.settings.sources:
            raise ConfigurationError("names no scenes", where="data.sources", cure="Name folders of scenes")
        opened = {teacher.name: teacher.open(accelerator().type) for teacher in self.teachers}
        for source in self.settings.sources:
            root, cache = Path(self.settings.root), Path(self.settings.cache)
            scenes, place = source.open(root), asdict(source) | {"folder": str((root / source.folder).resolve())}
            for name in scenes:
                scene = partial(scenes.__getitem__, name)
                lifted = keep_lifted({**place, "scene": name}, scene, opened, self.lifting, cache)
                self.scenes[f"{source.folder}/{name}"] = lifted
                if self.settings.input == "colour" and not lifted.colours.any():
                    cure = "Take data.input=ones, or scenes that have them"
                    raise ConfigurationError("has no colours", where=f"scene {name}", cure=cure)
                for teacher in self.teachers:
                    dim = lifted.features[teacher.name].shape[1]
                    if dim != teacher.dim:
                        what = f"its features have {dim} numbers, not {teacher.dim}"
                        raise ConfigurationError(what, where=f"teachers: {teacher.name}", cure=f"Set dim to {dim}")

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        length = self.steps * self.settings.batch_size * self.processes
        samples = PointSamples(list(self.scenes.values()), self.settings, seed=self.seed, length=length)
        return self.served(samples, self.settings, collate_fn=in_one)
