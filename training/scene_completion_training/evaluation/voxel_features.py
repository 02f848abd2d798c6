"""Networks of voxels: how they come out of checkpoints and folders, and into folders."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scene_completion_ros.errors import BundleError
from scene_completion_ros.untrusted_files import read_json, read_tensors
from scene_completion_ros.whole_files import tensor_bytes, whole_folder
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet

NETWORK, WEIGHTS = "network.json", "network.safetensors"


@dataclass(frozen=True)
class SceneRecord:
    """What a checkpoint remembers of the scenes that its network was trained on."""

    columns: tuple[str, ...]
    voxel_size: float  # edge of a voxel, metres


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
    with whole_folder(folder, without={WEIGHTS, NETWORK}) as part:
        (part / WEIGHTS).write_bytes(tensor_bytes(weights))
        (part / NETWORK).write_text(json.dumps(about, indent=2) + "\n")


def untrained(network: VoxelHUNet, seed: int) -> VoxelHUNet:
    """A network of the same size that has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VoxelHUNet(network.settings).eval().requires_grad_(False)
