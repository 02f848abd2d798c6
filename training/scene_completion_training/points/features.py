"""Off-the-shelf features of points: what a network says of them that `masked_scene` has trained on rooms (MSM).

from scene_completion_training.points.features import features
found = features(points, colours, normals, network="networks/mine")  # float16 [N, D]
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_training.evaluation.voxel_features import open_network, untrained
from scene_completion_training.masked_scene.objective import SceneView, sampled, standardised
from scene_completion_training.masked_scene.points import POINT_FEATURES, point_features, voxels_of
from scene_completion_training.points.scene import PointScene
from scene_completion_training.sparse.hu_net import VoxelHUNet

_LARGEST = 1 << 20  # voxels along an edge of a scene: their numbers have to fit into 64 bits
_AT_ONCE = 1 << 16  # points that features are sampled at


def features(
    points: NDArray[np.floating],  # [N, 3], metres, z up
    colours: NDArray[np.floating] | None = None,  # [N, 3] in 0..1
    normals: NDArray[np.floating] | None = None,  # [N, 3] of unit length, zero where unknown
    *,
    network: str | Path,  # a folder of `scene-completion export`, or a checkpoint
) -> NDArray[np.float16]:
    """Features of points, float16 [N, D]: those of all levels side by side, finest first.

    Raises BundleError where there is no such network, or it is none of points; SequenceError where the points are none
    that it can look at.
    """
    return np.concatenate(PointNetwork.open(network).levels(points, colours, normals), axis=1)


class PointNetwork:
    """A network of points, on the GPU where there is one.

    Each level is normalised as in the objective of its training (LayerNorm without weights), so that all weigh the same
    in a cosine. Of a voxel the network sees one point, by chance and the same at each call.
    """

    def __init__(self, network: VoxelHUNet, voxel_size: float, name: str) -> None:
        self.name, self.voxel_size = name, voxel_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.eval().to(self.device)

    @staticmethod
    def open(source: str | Path) -> "PointNetwork":
        """Opens a network; arguments and errors as of `features`."""
        place = Path(source)
        if not place.exists():
            cure = "Name a checkpoint of stage `masked_scene`, or what `scene-completion export` made of one"
            raise BundleError("no such network of points", where=str(source), cure=cure)
        network, record = open_network(place)
        if record.columns != POINT_FEATURES:
            what = f"its voxels have {', '.join(record.columns)}: it was not trained on points"
            raise BundleError(what, where=str(source), cure="Name a network that was trained on scenes of points")
        return PointNetwork(network, record.voxel_size, place.stem)

    def untrained(self, seed: int) -> "PointNetwork":
        """A network of the same size that has learned nothing."""
        return PointNetwork(untrained(self.network, seed), self.voxel_size, "random weights")

    def of_scene(self, scene: PointScene, rows: NDArray[np.int64] | None = None) -> tuple[NDArray[np.float16], ...]:
        """Features of the points of a scene, see `levels`."""
        return self.levels(scene.points, scene.colours, scene.normals, rows)

    def levels(
        self,
        points: NDArray[np.floating],
        colours: NDArray[np.floating] | None = None,
        normals: NDArray[np.floating] | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float16], ...]:
        """Features of each level, float16 [n, D_l], finest first, at all points or at some rows [n] of them.

        Raises SequenceError: arrays contradict each other, or what they hold is no place, colour or normal.
        """
        self._check(points, colours, normals)
        place = np.asarray((points - points.min(axis=0)) / self.voxel_size, np.float32)
        index, chosen, _ = voxels_of(place, np.random.default_rng(0))
        given = torch.from_numpy(point_features(len(points), colours, normals)[chosen]).to(self.device)
        voxels = functional.pad(torch.from_numpy(index), (1, 0)).to(self.device)  # of scene 0
        at = functional.pad(torch.from_numpy(place if rows is None else place[rows]), (1, 0)).to(self.device)
        with torch.inference_mode():
            view = SceneView(voxels, given, len(self.network.dims))
            decoded = self.network(view.features, view.pyramid)
            parts = [
                [standardised(level).half().cpu().numpy() for level in sampled(decoded, view, some)]
                for some in torch.split(at, _AT_ONCE)
            ]
        return tuple(np.concatenate(level) for level in zip(*parts, strict=True))

    def _check(
        self, points: NDArray[np.floating], colours: NDArray[np.floating] | None, normals: NDArray[np.floating] | None
    ) -> None:
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
