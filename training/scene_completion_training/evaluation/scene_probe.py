"""Linear probes of voxel features on labelled scenes: how much of the classes features hold, all levels side by side.

What goes into a network is probed, what comes out of it, and a student's units, all of the same voxels of the same
frames. One linear layer on standardised inputs, AdamW and a cosine schedule, cross-entropy. The probed features stay as
they are. In the released code of CUA-O3D the running statistics of the "frozen" network drift while its probe is
trained (S6). Features of zeros are none. Such voxels count as misses, and no probe learns from them.
"""

import dataclasses
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.evaluation.truth import ALL
from scene_completion_ros.evaluation.zero_shot import Part
from scene_completion_ros.sequences.opening import holds_voxels
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
from scene_completion_ros.untrusted_files import read_json, read_tensors
from scene_completion_ros.whole_files import whole_folder, write_whole
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.masked_scene.objective import SceneView, sampled, standardised
from scene_completion_training.masked_scene.scenes import FEATURES, SceneMaker, VoxelScene, keep_scenes
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet

NETWORK, WEIGHTS = "network.json", "network.safetensors"


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """A scene, and the frame that it is of."""

    sequence: PosedSequence
    index: int
    scene: VoxelScene


@dataclass(frozen=True)
class SceneRecord:
    """What a checkpoint remembers of the scenes that its network was trained on."""

    columns: tuple[str, ...]
    voxel_size: float  # edge of a voxel, metres

    def check(self, scene: VoxelScene) -> None:
        """Raises a `ConfigurationError` for a scene with voxels of another size, or with other features."""
        size = scene.grid.voxel_size
        if abs(size - self.voxel_size) > 1e-6:
            what = f"its voxels have {size:g} m, those that the network was trained on {self.voxel_size:g} m"
            cure = "Take a network of this voxel size, or make the scene on another grid"
            raise ConfigurationError(what, where=f"scene {scene.name}", cure=cure)
        if scene.columns != self.columns:
            own, known = ", ".join(scene.columns), ", ".join(self.columns)
            what = f"it has the features {own}; the network was trained on {known}"
            cure = "Make it with the same student, and with label units only where the network knows them"
            raise ConfigurationError(what, where=f"scene {scene.name}", cure=cure)


def open_network(source: Path) -> tuple[VoxelHUNet, SceneRecord]:
    """The network of a checkpoint or of a folder that `export_network` wrote, and what it remembers of its scenes.

    Of stage `masked_scene` it is the teacher, the average of all that its student was. Raises BundleError where it is
    neither.
    """
    cure = "Name the checkpoint of a training with stage `masked_scene`, or what `scene-completion export` made of it"
    if source.is_dir():
        remembered = read_json(source / NETWORK, BundleError, cure=cure, kind=dict)
        arrays = read_tensors(source / WEIGHTS, BundleError, cure=cure)
        state = {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in arrays.items()}
        stage = str(remembered.get("stage"))
    else:
        stored = Checkpoint.read(source)
        remembered, state, stage = dict(stored.configuration), dict(stored.state), stored.stage
    try:
        record = SceneRecord(tuple(remembered["columns"]), float(remembered["data"]["voxel_size"]))
        with torch.device("meta"):  # memory is taken for the weights that are there alone
            network = VoxelHUNet(HUNetSettings.of(remembered["network"]))
        network.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        what = f"no network of voxels in it: its stage is {stage} ({str(error)[:200]})"
        raise BundleError(what, where=str(source), cure=cure) from error
    if not 1e-4 < record.voxel_size < 1e4:
        raise BundleError(f"voxels of {record.voxel_size:g} m", where=str(source), cure=cure)
    return network.eval().requires_grad_(False), record


def export_network(file: Path, folder: Path, *, name: str, licence: str, trained_on: str) -> None:
    """Writes the network of a checkpoint as JSON and float16 safetensors; see `open_network` for errors."""
    network, record = open_network(file)
    weights = {key: value.numpy().astype(np.float16) for key, value in network.state_dict().items()}
    about = {
        "schema_version": 1, "name": name, "licence": licence, "stage": "masked_scene",
        "columns": list(record.columns), "data": {"voxel_size": record.voxel_size},
        "network": network.settings.plain(), "provenance": {"trained_on": trained_on, "checkpoint": file.name},
    }  # fmt: skip
    with whole_folder(folder, without=None) as part:
        (part / WEIGHTS).write_bytes(safetensors.numpy.save(weights))
        (part / NETWORK).write_text(json.dumps(about, indent=2) + "\n")


def untrained(network: VoxelHUNet, seed: int) -> VoxelHUNet:
    """A network of the same size that has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VoxelHUNet(network.settings).eval().requires_grad_(False)


class SceneColumns:
    """Columns of the scenes themselves: the inputs of networks, or the label units of a student."""

    def __init__(self, name: str, *, units: bool = False) -> None:
        self.name, self._units = name, units

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """Features, float32 [n, D], of the voxels at rows [n] of the scene; a `ConfigurationError` if it has none."""
        inputs = len(FEATURES)
        chosen = slice(inputs, None) if self._units else slice(inputs)
        found = frame.scene.features[:, chosen]
        if not found.shape[1]:
            cure = "Make the scenes with units of a student"
            raise ConfigurationError("has no label units", where=f"scene {frame.scene.name}", cure=cure)
        return (found[rows],)


class NetworkFeatures:
    """What each level of a `VoxelHUNet` says of voxels, with nothing masked, sampled at their centres.

    Each is normalised as in the objective of its training (LayerNorm without weights): all weigh the same in a cosine.
    """

    def __init__(self, network: VoxelHUNet, record: SceneRecord, name: str) -> None:
        self.name, self.record = name, record
        self._network = network.eval()

    @staticmethod
    def open(file: Path, name: str) -> "NetworkFeatures":
        """Opens a checkpoint of stage `masked_scene`; see `open_network` for errors."""
        return NetworkFeatures(*open_network(file), name)

    def untrained(self, seed: int, name: str) -> "NetworkFeatures":
        """A network of the same size that has learned nothing."""
        return NetworkFeatures(untrained(self._network, seed), self.record, name)

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """Features of each level, float32 [n, D_l], at rows [n] of a scene; errors as of `SceneRecord.check`."""
        scene = frame.scene
        taken = [number for number, name in enumerate(scene.columns) if name in self.record.columns]
        columns = tuple(scene.columns[number] for number in taken)
        scene = dataclasses.replace(scene, features=scene.features[:, taken], columns=columns)
        self.record.check(scene)
        index = functional.pad(torch.from_numpy(scene.index.astype(np.int64)), (1, 0))  # of scene 0
        view = SceneView(index, torch.from_numpy(scene.features), len(self._network.dims))
        centres = index[torch.from_numpy(rows)] + torch.tensor([0.0, 0.5, 0.5, 0.5])
        with torch.inference_mode():
            levels = sampled(self._network(view.features, view.pyramid), view, centres)
            return tuple(standardised(level).numpy() for level in levels)


VoxelFeatures: TypeAlias = SceneColumns | NetworkFeatures


NAMES = COMMON_CLASSES[1:]  # classes that are told apart: the 15 of S4C
LEARNING_RATE = WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)
BATCH = 2048
_TEST_SEED = 0


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Classes by a linear layer."""

    weight: NDArray[np.float32]  # float32 [K, E]
    bias: NDArray[np.float32]  # float32 [K]

    def logits(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, K] of what is probed [N, E]."""
        return np.asarray(values @ self.weight.T + self.bias, np.float32)

    def labels(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class [N] of the largest logit, of what is probed [N, E]."""
        return np.asarray(self.logits(values).argmax(axis=1), np.int64)

    def save(self, file: Path) -> None:
        """Writes it as safetensors."""
        write_whole(file, safetensors.numpy.save({"weight": self.weight, "bias": self.bias}))

    @staticmethod
    def read(file: Path) -> "LinearProbe":
        """Reads what `save` wrote; a `ConfigurationError` if it is nothing such."""
        cure = "Make it with `scene-completion evaluate segmentation --probe-on`"
        found = read_tensors(file, ConfigurationError, cure=cure)
        weight, bias = (found.get(name, np.zeros(0)).astype(np.float32) for name in ("weight", "bias"))
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ConfigurationError("holds no linear probe", where=str(file), cure=cure)
        return LinearProbe(weight, bias)


def fit_linear_probe(
    values: NDArray[np.float32], classes: NDArray[np.int64], count: int, *, seed: int, steps: int
) -> LinearProbe:
    """Fits a probe to values [N, E] of classes [N] of `count`; a `ConfigurationError` for fewer than two."""
    if len(np.unique(classes)) < 2:
        cure = "Name more recordings with ground truth voxels to train on"
        raise ConfigurationError(f"{len(classes)} voxels of fewer than two classes", where="linear probe", cure=cure)
    mean, scale = values.mean(axis=0), values.std(axis=0) + np.float32(1e-6)
    inputs, targets = torch.from_numpy((values - mean) / scale), torch.from_numpy(classes)
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(values.shape[1], count)
    nn.init.zeros_(layer.weight)  # convex: where it starts does not matter
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (BATCH,), generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(layer(inputs[batch]), targets[batch]))
        optimizer.step()
        schedule.step()
    weight = layer.weight.detach().numpy() / scale
    return LinearProbe(weight, layer.bias.detach().numpy() - weight @ mean)


@dataclass(frozen=True, eq=False)
class ProbedScene:
    """Some labelled voxels of a scene."""

    frame: SceneFrame
    rows: NDArray[np.int64]  # their rows in the scene [N]
    classes: NDArray[np.int64]  # int64 [N], in 0 .. K - 1


def labelled_scenes(maker: SceneMaker, cache: Path, every: int) -> list[SceneFrame]:
    """Scenes with truth: of a town every N-th, of a window the first; a `ConfigurationError` if there are none."""
    sequence = maker.sequence
    frames = range(0, len(sequence), every) if holds_exact_voxels(sequence) else range(1)
    frames_with = [index for index in frames if holds_voxels(sequence, index)]
    if not frames_with:
        what = "no frame has ground truth voxels"
        raise ConfigurationError(what, where=sequence.name, cure="Name towns or KITTI windows with labels")
    files = keep_scenes(maker, cache, frames_with)
    return [SceneFrame(sequence, int(file.stem), VoxelScene.load(file)) for file in files]


def drawn(frame: SceneFrame, most: int, seed: int = _TEST_SEED) -> ProbedScene | None:
    """At most so many labelled voxels of a scene, drawn at random; None where none is labelled."""
    label = frame.scene.label
    if label is None:
        return None
    labelled = np.flatnonzero((label != EMPTY) & (label != INVALID))
    rows = np.random.default_rng([seed, zlib.crc32(frame.scene.name.encode())]).permutation(labelled)[:most]
    return ProbedScene(frame, rows, label[rows].astype(np.int64) - 1) if len(rows) else None


@dataclass(frozen=True, eq=False)
class ProbeAnswer:
    """What a probe says of the voxels of a scene, see `ZERO_SHOT`; K where there is no feature."""

    predicted: NDArray[np.int64]
    true: NDArray[np.int64]
    parts: dict[Part, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Probed:
    """Features with a linear probe that was fitted to them, as a method that is scored."""

    name: str
    features: VoxelFeatures
    probe: LinearProbe
    class_names: tuple[str, ...] = NAMES

    def answer(self, scene: ProbedScene) -> ProbeAnswer:
        """Read the classes off the features."""
        values = _side_by_side(self.features, scene)
        predicted = self.probe.labels(values)
        predicted[~values.any(axis=1)] = len(self.class_names)
        return ProbeAnswer(predicted, scene.classes, {(51.2, ALL): np.ones(len(predicted), np.bool_)})


def fit_probe(name: str, features: VoxelFeatures, scenes: Sequence[ProbedScene], *, seed: int, steps: int) -> Probed:
    """Fits the probe of a method to scenes; a `ConfigurationError` for labelled voxels of fewer than two classes."""
    if not scenes:
        raise ConfigurationError("no scene has a labelled voxel", where="probe", cure="Name recordings that have")
    values = np.concatenate([_side_by_side(features, scene) for scene in scenes])
    classes = np.concatenate([scene.classes for scene in scenes])
    known = values.any(axis=1)
    return Probed(name, features, fit_linear_probe(values[known], classes[known], len(NAMES), seed=seed, steps=steps))


def _side_by_side(features: VoxelFeatures, scene: ProbedScene) -> NDArray[np.float32]:
    return np.concatenate(features.features(scene.frame, scene.rows), axis=1)
