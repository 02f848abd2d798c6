"""Features of voxels that are probed: what goes into a network, what comes out of it, a student's units.

All of them speak of the same voxels of the same frame, so that probes of them can be compared.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.untrusted_files import read_json, read_tensors
from scene_completion_ros.whole_files import tensor_bytes, whole_folder
from scene_completion_training.arrays import Floats, Ints
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.masked_scene.objective import SceneView, sampled, standardised
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene
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
    about = {"schema_version": 1, "name": name, "licence": licence, "stage": "masked_scene"}
    about |= {"columns": list(record.columns), "data": {"voxel_size": record.voxel_size}}
    about |= {"network": network.settings.plain(), "provenance": {"trained_on": trained_on, "checkpoint": file.name}}
    with whole_folder(folder, without=None) as part:
        (part / WEIGHTS).write_bytes(tensor_bytes(weights))
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

    def features(self, frame: SceneFrame, rows: Ints) -> tuple[Floats, ...]:
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

    def features(self, frame: SceneFrame, rows: Ints) -> tuple[Floats, ...]:
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
