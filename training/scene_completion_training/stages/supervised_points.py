"""Stage `supervised_points`: classes of points from labels, the upper bound of CUA-O3D, and of MSM with fine-tuning."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.data.module import TrainingData
from scene_completion_training.data.store import Arrays, Entry, keyed, mapped_arrays
from scene_completion_training.losses import weighted_mean
from scene_completion_training.masked_scenes import POINT_FEATURES, in_one, keep_points
from scene_completion_training.networks.supervised_points import NetworkKind, SupervisedPoints, network_inputs
from scene_completion_training.points.data import PointDataSettings
from scene_completion_training.points.features import open_network
from scene_completion_training.points.scene import PointScene, drawn_rows
from scene_completion_training.points.voxels import OFFSETS, turned, unit, voxels_of
from scene_completion_training.sparse.hu_net import HUNetSettings
from scene_completion_training.stage import Batch, Stage

VERSION = 1  # of kept scenes
TARGETS = 50_000  # most labelled points of a scene that a step compares
WEIGHT_DECAY = 0.05


@dataclass
class SupervisedPointsConfiguration(TrainingConfiguration):
    """What the training with labels needs."""

    stage: str = "supervised_points"
    learning_rate: float = 1e-3
    data: PointDataSettings = field(default_factory=lambda: PointDataSettings(input="colour"))
    network: NetworkKind = "minkowski"  # "minkowski" takes `data.input`; "hu_net" colours and normals
    hu_net: HUNetSettings = field(default_factory=lambda: HUNetSettings(inputs=len(POINT_FEATURES)))
    # Checkpoint of stage `masked_scene`, or what `export` made of it, that is fine-tuned: `network` is then its own.
    start_from: str = ""
    share: float = 100.0  # percent of the scenes that are used, the same ones as by probes of few scenes
    points: int = 0  # labelled points of a scene, drawn once; 0 for all

    def completed(self) -> "SupervisedPointsConfiguration":
        """With the network that it starts from; a `ConfigurationError` for voxels of another size."""
        if not self.start_from:
            return self
        network, edge = open_network(Path(self.start_from))
        if edge != self.data.voxel_size:
            what = f"{self.data.voxel_size:g} m, where {self.start_from} has {edge:g} m"
            raise ConfigurationError(what, where="data.voxel_size", cure=f"Set it to {edge:g}")
        return dataclasses.replace(self, network="hu_net", hu_net=network.settings)

    def check(self) -> None:
        """Refuses numbers that cannot be."""
        super().check()
        if not (self.data.voxel_size > 0.0 and 0.0 < self.share <= 100.0 and self.points >= 0):
            what = f"data.voxel_size={self.data.voxel_size:g}, share={self.share:g}, points={self.points}"
            cure = "Take a positive edge, a share above 0 up to 100, and no negative number of points"
            raise ConfigurationError(what, where="supervised_points", cure=cure)
        if self.hu_net.inputs != len(POINT_FEATURES):
            cure = f"Set it to {len(POINT_FEATURES)}: {', '.join(POINT_FEATURES)}"
            raise ConfigurationError(f"{self.hu_net.inputs}", where="hu_net.inputs", cure=cure)


class SupervisedPointsStage(Stage):
    """Trains `SupervisedPoints` with cross-entropy, by AdamW with warm-up and cosine."""

    configuration_class = SupervisedPointsConfiguration
    field_class = SupervisedPoints
    next_command = "scene-completion evaluate points --checkpoint {checkpoint} --data FOLDER ..."
    field: SupervisedPoints
    settings: SupervisedPointsConfiguration

    def make_data(self) -> "LabelledData":
        """Labelled scenes."""
        return LabelledData(self.settings)

    def configure_model(self) -> None:
        """Makes the network, once the data knows how many classes there are."""
        if not hasattr(self, "field"):
            classes = len(self.trainer.datamodule.classes)  # type: ignore[attr-defined]
            self.field = SupervisedPoints.of(asdict(self.settings), classes)
            if self.settings.start_from:
                self.field.trunk.load_state_dict(open_network(Path(self.settings.start_from))[0].state_dict())

    def weights(self) -> dict[str, float]:
        """There is one loss."""
        return {"classes": 1.0}

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Cross-entropy at labelled points."""
        logits = self.field(batch["voxel_index"], batch["inputs"], batch["target_points"])
        loss = functional.cross_entropy(logits, batch["target"], reduction="none")
        return {"classes": weighted_mean(loss, torch.ones_like(loss))}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        optimiser = torch.optim.AdamW(self.parameters(), self.settings.learning_rate, weight_decay=WEIGHT_DECAY)
        return self.scheduled(optimiser, self.warmed_cosine)


class LabelledData(TrainingData):
    """Serves `LabelledSamples` of the sources of a configuration."""

    def __init__(self, given: SupervisedPointsConfiguration) -> None:
        super().__init__(given.data, steps=given.steps, seed=given.seed)
        self.given = given
        self.files: dict[str, Path] = {}
        self.classes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Which scenes and classes there were."""
        return {"scenes": list(self.files), "classes": list(self.classes)}

    def setup(self, stage: str) -> None:
        """Keeps what is missing in the cache.

        Raises ConfigurationError without sources, or fewer than two classes with labels; SequenceError for scenes
        without labels, or of another list of classes than the first.
        """
        if self.files:
            return
        self.require_sources("labelled scenes")
        root, found = Path(self.settings.root), dict[str, Path]()
        for source in self.settings.sources:
            place = asdict(source) | {"folder": str((root / source.folder).resolve())}
            entry = Entry(self.store / keyed(Path(place["folder"]).name, [VERSION, place]))
            scenes = source.open(root)
            names = [f"{source.folder}/{name}" for name in scenes]
            found |= zip(names, keep_points(scenes, entry, _labels), strict=True)
        order = np.random.default_rng(0).permutation(len(found))
        count = round(self.given.share / 100.0 * len(found))
        if found and not count:
            what = f"{self.given.share:g} % of {len(found)} scenes is none of them"
            raise ConfigurationError(what, where="share", cure=f"Take {100.0 / len(found):.1f} or more")
        some = order[:count]
        files = {name: file for number, (name, file) in enumerate(found.items()) if number in some}
        lists, labelled = dict[tuple[str, ...], str](), set[int]()
        for name, file in files.items():
            kept = mapped_arrays(file)
            lists.setdefault(tuple(json.loads(kept["classes"].tobytes())), name)
            coloured = self.given.network == "minkowski" and self.settings.input == "colour"
            if coloured and not kept["features"][:, :3].any():
                cure = "Take data.input=ones, or scenes that have them"
                raise ConfigurationError("has no colours", where=f"scene {name}", cure=cure)
            labelled |= set(kept["label"][kept["rows"][: self.given.points or None]].tolist())
        if len(lists) > 1:
            one, other = list(lists.values())[:2]
            cure = "Train on scenes of one list, or name the `labels` of sources"
            raise SequenceError(f"has other classes than {one}", where=other, cure=cure)
        if len(labelled) < 2:
            what, cure = f"labels of {len(labelled)} classes in {len(files)} scenes", "Name scenes with two at least"
            raise ConfigurationError(what, where="data.sources", cure=cure)
        self.files, (self.classes,) = files, lists

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        return self.served(LabelledSamples(list(self.files.values()), self.given, self.length), collate_fn=in_one)


def _labels(scene: PointScene) -> Arrays:
    """Keeps of a scene with labels what trainings need, besides its points; a `SequenceError` where it has none."""
    rows = drawn_rows(scene, len(scene))
    return {
        "label": np.asarray(scene.label, np.int32),
        "rows": rows.astype(np.int32),  # of the labelled points, in the order of the draw
        "classes": np.frombuffer(json.dumps(scene.classes).encode(), np.uint8),
    }


class LabelledSamples(Dataset[dict[str, Tensor]]):
    """Samples by number, each scene once an epoch, augmented as those of the distillation (`turned`)."""

    def __init__(self, files: Sequence[Path], given: SupervisedPointsConfiguration, length: int) -> None:
        self.files, self.given, self.length = files, given, length

    def __len__(self) -> int:
        """Samples of the whole training."""
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Voxels int64 [V, 3], inputs float32 [V, C], labelled points [P, 3] in edges of voxels, and their classes."""
        given, (epoch, place) = self.given, divmod(number, len(self.files))
        order = np.random.default_rng((given.seed, epoch)).permutation(len(self.files))
        kept, chance = mapped_arrays(self.files[order[place]]), np.random.default_rng((given.seed, epoch, place))
        features = kept["features"].astype(np.float32)
        points, normals = np.split(turned(np.concatenate([kept["points"], features[:, 3:]]), chance), 2)
        at = (points - points.min(axis=0)) / given.data.voxel_size + chance.uniform(0.0, OFFSETS, 3)
        at = at.astype(np.float32)
        index, chosen, _ = voxels_of(at, chance)
        features[:, 3:] = unit(normals)
        rows = kept["rows"][: given.points or None]
        rows = chance.permutation(rows)[:TARGETS] if len(rows) > TARGETS else rows
        arrays = {
            "voxel_index": index,
            "inputs": network_inputs(features[chosen], given.network, given.data.input),
            "target_points": at[rows],
            "target": kept["label"][rows].astype(np.int64),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
