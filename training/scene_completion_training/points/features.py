"""Off-the-shelf features of points, by a network of stage `masked_scene` that was trained on rooms (MSM).

from scene_completion_training.points.features import PointNetwork
levels = PointNetwork.open("rooms").levels(points, colours, normals)  # of each level, float16 [N, D_l]
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_ros.untrusted_files import read_json, read_tensors
from scene_completion_ros.whole_files import tensor_bytes, whole_folder
from scene_completion_training import masked_scenes
from scene_completion_training.arrays import Bytes, Halves, Ints, Reals
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.points.scene import PointScene
from scene_completion_training.points.voxels import voxels_of
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.sparse.voxel_set import sample_levels
from scene_completion_training.workers import accelerator

NETWORK, WEIGHTS = "network.json", "network.safetensors"
SHIPPED = ("rooms",)  # networks that come with the package, next to this file


def open_network(source: Path) -> tuple[VoxelHUNet, float]:
    """The network of a checkpoint or of a folder that `export_network` wrote, and the edge of its voxels, metres.

    A name of `SHIPPED` is a folder, too. Of stage `masked_scene` it is the teacher, the average of all that its student
    was. Raises BundleError where it is neither, or was not trained on points.
    """
    cure = "Name the checkpoint of a training with stage `masked_scene`, or what `scene-completion export` made of it"
    if str(source) in SHIPPED and not (source / NETWORK).is_file():
        source = Path(__file__).with_name(str(source))
    if source.is_dir():
        remembered = read_json(source / NETWORK, BundleError, cure=cure, kind=dict)
        arrays = read_tensors(source / WEIGHTS, BundleError, cure=cure)
        state = {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in arrays.items()}
        stage = str(remembered.get("stage"))
    elif not source.exists():
        what = f"there is neither such a file or folder nor such a network of the package ({', '.join(SHIPPED)})"
        raise BundleError(what, where=str(source), cure=cure)
    else:
        stored = Checkpoint.read(source)
        remembered, state, stage = dict(stored.configuration), dict(stored.state), stored.stage
    try:
        columns, edge = tuple(remembered["columns"]), float(remembered["data"]["voxel_size"])
        if columns != masked_scenes.POINT_FEATURES or not 1e-4 < edge < 1e4:
            raise ValueError(f"voxels of {edge:g} m with {', '.join(map(str, columns))}: it was not trained on points")
        with torch.device("meta"):  # memory is taken for the weights that are there alone
            network = VoxelHUNet(HUNetSettings.of(remembered["network"]))
        network.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        what = f"no network of points in it: its stage is {stage} ({str(error)[:200]})"
        raise BundleError(what, where=str(source), cure=cure) from error
    return network.eval().requires_grad_(False), edge


def export_network(file: Path, folder: Path, *, name: str, licence: str) -> None:
    """Writes the network of a checkpoint as JSON and float16 safetensors; see `open_network` for errors."""
    network, edge = open_network(file)
    weights = {key: value.numpy().astype(np.float16) for key, value in network.state_dict().items()}
    about = {"schema_version": 1, "name": name, "licence": licence, "stage": "masked_scene"}
    about |= {"columns": masked_scenes.POINT_FEATURES, "data": {"voxel_size": edge}}
    about |= {"network": asdict(network.settings), "provenance": {"checkpoint": file.name}}
    with whole_folder(folder, (NETWORK, WEIGHTS), replace=True) as part:
        (part / WEIGHTS).write_bytes(tensor_bytes(weights))
        (part / NETWORK).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


_LARGEST = 1 << 20  # voxels along an edge of a scene: their numbers have to fit into 64 bits
_AT_ONCE = 1 << 16  # points that features are sampled at
_SPREAD = (0.02, 0.98)  # quantiles of a component that become the darkest and the brightest


class PointNetwork:
    """A network of points, on the GPU where there is one.

    Each level is normalised as in the objective of its training (LayerNorm without weights), so that all weigh the same
    in a cosine. Of a voxel the network sees one point, by chance and the same at each call.
    """

    def __init__(self, network: VoxelHUNet, voxel_size: float, name: str) -> None:
        self.name, self.voxel_size = name, voxel_size
        self.device = accelerator()
        self.network = network.eval().to(self.device)

    @staticmethod
    def open(source: str | Path) -> "PointNetwork":
        """Opens a folder of `scene-completion export`, or a checkpoint; a `BundleError` if it is none of points."""
        return PointNetwork(*open_network(Path(source)), Path(source).stem)

    def untrained(self, seed: int) -> "PointNetwork":
        """A network of the same size that has learned nothing."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = VoxelHUNet(self.network.settings)
        return PointNetwork(network.requires_grad_(False), self.voxel_size, "random weights")

    def of_scene(self, scene: PointScene, rows: Ints | None = None) -> tuple[Halves, ...]:
        """Features of the points of a scene, see `levels`."""
        masked_scenes.say_what_lacks(scene)
        return self.levels(scene.points, scene.colours, scene.normals, rows)

    def levels(
        self, points: Reals, colours: Reals | None = None, normals: Reals | None = None, rows: Ints | None = None
    ) -> tuple[Halves, ...]:
        """Features [n, D_l] of each level, finest first, at all points or rows [n].

        `points`: [N, 3], metres, z up; `colours`: [N, 3] in 0..1; `normals`: [N, 3] of unit length, zero where unknown.
        Raises SequenceError where the points are none that it can use.
        """
        self._check(points, colours, normals)
        place = np.asarray((points - points.min(axis=0)) / self.voxel_size, np.float32)
        index, chosen, _ = voxels_of(place, np.random.default_rng(0))
        given = torch.from_numpy(masked_scenes.point_features(len(points), colours, normals)[chosen]).to(self.device)
        voxels = functional.pad(torch.from_numpy(index), (1, 0)).to(self.device)  # of scene 0
        at = functional.pad(torch.from_numpy(place if rows is None else place[rows]), (1, 0)).to(self.device)
        with torch.inference_mode():
            view = masked_scenes.SceneView(voxels, given, len(self.network.dims))
            decoded = self.network(view.features, view.pyramid)
            found = (sample_levels(decoded, view.pyramid, some)[0] for some in torch.split(at, _AT_ONCE))
            parts = [[masked_scenes.standardised(level).half().cpu().numpy() for level in levels] for levels in found]
        return tuple(np.concatenate(level) for level in zip(*parts, strict=True))

    def _check(self, points: Reals, colours: Reals | None, normals: Reals | None) -> None:
        def refused(what: str, cure: str) -> SequenceError:
            return SequenceError(what, where="points", cure=cure)

        shapes = [given.shape for given in (points, colours, normals) if given is not None]
        if points.ndim != 2 or points.shape[1] != 3 or not len(points) or len(set(shapes)) > 1:
            raise refused(f"arrays of {shapes}", "Give points, colours and normals [N, 3] of the same points")
        if not all(np.isfinite(given).all() for given in (points, colours, normals) if given is not None):
            raise refused("some numbers are not finite", "Leave these points out")
        if colours is not None and not (colours.min() >= 0.0 and colours.max() <= 1.0):
            raise refused(f"colours are up to {colours.max():g}", "Give them in 0..1: divide bytes by 255")
        extent = float(np.ptp(points, axis=0).max())
        if extent / self.voxel_size > _LARGEST:
            raise refused(f"they span {extent:g} m", f"Give metres; a voxel of the network has {self.voxel_size:g}")


def principal_colours(features: Reals) -> Bytes:
    """RGB [N, 3]: the three first principal components of features [N, D], each spread between its quantiles.

    A component points to where the sum of its coefficients is positive.
    """
    values = np.asarray(features, np.float32)
    mean = values.mean(axis=0)
    covariance = values.T @ values / len(values) - np.outer(mean, mean)
    axes = np.linalg.eigh(covariance.astype(np.float64))[1][:, ::-1][:, :3]
    axes *= np.where(axes.sum(axis=0) < 0.0, -1.0, 1.0)
    shares = np.full((len(values), 3), 0.5)
    components = (values - mean) @ axes
    low, high = np.quantile(components, _SPREAD, axis=0)
    shares[:, : axes.shape[1]] = (components - low) / np.maximum(high - low, 1e-9)
    return np.asarray(255.0 * np.clip(shares, 0.0, 1.0), np.uint8)
