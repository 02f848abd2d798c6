"""A checkpoint of stage `completion` as a density model, and what it says the voxels are."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.inference.render import said_depth
from scene_completion_ros.inference.scene_query import ray_camera
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_ros.voxels.occupancy import Calibration
from scene_completion_training.data.completion_samples import Eyes, level_pose
from scene_completion_training.evaluation.checkpoints import CanonicalImages
from scene_completion_training.evaluation.density_model import (
    CALIBRATED_RULE,
    IDENTITY,
    VOXEL_EDGE,
    Observation,
)
from scene_completion_training.networks.scene_decoder import CompletedScene
from scene_completion_training.networks.sight import PixelView
from scene_completion_training.stages.completion import SceneField

_CERTAIN = 1.0 - 1e-6


@dataclass(frozen=True, eq=False)
class SeenScene:
    """What a field says of a frame.

    Attributes:
        volume_from_camera: The place of the camera in the volume.
    """

    view: PixelView
    scene: CompletedScene
    volume_from_camera: RigidTransform
    grid: VoxelGrid

    def probability(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Probability of occupancy [N] at points [N, 3] of the camera's optical frame, trilinear in logits."""
        logits = self._at(self.scene.occupied[:, None].permute(0, 1, 4, 3, 2), points)
        return np.asarray(torch.sigmoid(logits)[0].numpy(), np.float32)

    def classes(self, points: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Classes [N], ids of `COMMON_CLASSES` from 1 on, of the cells that points [N, 3] lie in."""
        logits = self._at(self.scene.classes.permute(0, 1, 2, 4, 3), points, mode="nearest")
        return np.asarray(logits.argmax(dim=0).numpy() + 1, np.uint8)

    def _at(self, values: torch.Tensor, points: NDArray[np.floating], mode: str = "bilinear") -> torch.Tensor:
        """Values [1, C, z, y, x] at points: [C, N]."""
        size = self.grid.voxel_size * np.asarray(self.grid.shape)
        places = 2.0 * (self.volume_from_camera.apply(points) - np.asarray(self.grid.origin)) / size - 1.0
        grid = torch.from_numpy(places.astype(np.float32))[None, None, None]
        return functional.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=False)[0, :, 0, 0]


class SceneModel:
    """A trained `SceneField` behind its eyes.

    Args:
        stated: Whether it is told where the camera stands.
    """

    def __init__(self, field: SceneField, eyes: Eyes, name: str, *, stated: bool = True) -> None:
        self.field, self.eyes, self.name, self.stated = field.eval(), eyes, name, stated
        self.calibration: Calibration = IDENTITY
        self.cutoffs = {CALIBRATED_RULE: float(-np.log(0.5) / VOXEL_EDGE)}
        self._image = CanonicalImages(field.camera, False)
        self._last: tuple[PosedSequence, int, SeenScene] | None = None

    def see(self, sequence: PosedSequence, index: int) -> SeenScene:
        """What it says of a frame."""
        if self._last is None or self._last[0] is not sequence or self._last[1] != index:
            name = reference_camera(sequence)
            pose = level_pose(sequence, name, self.field.viewpoint) if self.stated else DEFAULT_GRID_FROM_CAMERA
            matrix = torch.from_numpy(pose.matrix).float()[None]
            with torch.inference_mode():
                maps = self.eyes.see(self._image(sequence, index, name)[None])
                no = torch.zeros(1, dtype=torch.bool)
                view = self.field.look(maps, matrix, ~no if self.stated else no, no)
                scene = self.field(view, matrix, no)
            self._last = (sequence, index, SeenScene(view, scene, pose, self.field.spatial.grid))
        return self._last[2]

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """The frame as occupancy is evaluated: with the density whose opacity is the probability."""
        seen = self.see(sequence, index)
        camera: Camera = sequence.cameras[reference_camera(sequence)]
        rays, spec = ray_camera(self.field.camera), self.field.spec
        code = functional.interpolate(seen.view.code, (rays.height, rays.width), mode="bilinear", align_corners=False)
        depth = (1.0 / spec.inverse_depth(code)[:, 0].clamp_min(1e-3))[0].numpy()

        def density(points: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray(-np.log1p(-np.minimum(seen.probability(points), _CERTAIN)) / VOXEL_EDGE, np.float32)

        return Observation(
            camera, density, (spec.near, spec.far), functools.partial(said_depth, depth, self.field.camera, camera)
        )


def open_scene_model(file: Path, eyes: str, weights: str, *, stated: bool = True, name: str = "") -> SceneModel:
    """A checkpoint of stage `completion` and the eyes that it was trained on."""
    from scene_completion_training.checkpoints import Checkpoint
    from scene_completion_training.stages.completion import read_eyes

    checkpoint = Checkpoint.read(file)
    field = checkpoint.field_of(SceneField)
    _, _, seen = read_eyes(eyes, weights, checkpoint.viewpoint)
    return SceneModel(field, seen, name or file.parent.parent.name, stated=stated)
