"""Voxel centres around a frame with evidence of being occupied: fused from stereo depth, or known exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.semantic_classes import INVALID, SEMANTIC_KITTI_TO_COMMON
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, OPTICAL_FROM_FORWARD, RigidTransform, VoxelGrid
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data.fused_occupancy import DepthView, fuse_occupancy
from scene_completion_training.street_world.ground_truth import BELOW_GROUND, IN_VIEW, INTERIOR
from scene_completion_training.viewpoint import Volume

POINT_UNIT = 0.002
"""Metres per step of the stored voxel centres (int16: ±65 m)."""


@dataclass(frozen=True)
class FusionSettings:
    """How far around a frame its sequence is fused.

    Attributes:
        metres_behind: Travelled distance before the frame; by default 15 where the volume reaches as far as a street's,
            and in proportion elsewhere.
        metres_ahead: Travelled distance after the frame; by default 45 on a street.
        views: Most views used.
        free_samples: Voxels tested for free space.
        kept: Most voxels kept a frame, half of them with hits.
    """

    metres_behind: float | None = None
    metres_ahead: float | None = None
    views: int = 14
    free_samples: int = 300_000
    kept: int = 120_000

    def along(self, volume: Volume) -> tuple[float, float]:
        """Travelled distance before and after the frame, as given or as it fits the volume."""
        behind = 15.0 * volume.scale if self.metres_behind is None else self.metres_behind
        return behind, 45.0 * volume.scale if self.metres_ahead is None else self.metres_ahead


def fusion_views(
    sequence: PosedSequence,
    index: int,
    left: str,
    depth: Callable[[int], NDArray[np.float32]],
    focal_baseline: float,
    settings: FusionSettings,
    volume: Volume,
) -> Iterator[DepthView]:
    """Depth views to fuse for a frame: itself, then frames spread evenly over the distance travelled around it.

    Args:
        depth: Gives the left camera's stereo depth [H, W] of a frame, metres.
        focal_baseline: Focal length × baseline, pixel metres.

    Yields:
        Views at half resolution; their grid frame is the frame's left camera, axes x forward, y left, z up.
    """
    positions = np.array([sequence.world_from_camera(i, left).translation for i in range(len(sequence))])
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(positions, axis=0), axis=1))])
    travelled -= travelled[index]
    behind, ahead = settings.along(volume)
    near = np.flatnonzero((travelled >= -behind) & (travelled <= ahead))
    wanted = np.linspace(travelled[near[0]], travelled[near[-1]], settings.views)
    others = {int(near[np.abs(travelled[near] - w).argmin()]) for w in wanted} - {index}
    grid_from_world = OPTICAL_FROM_FORWARD.inverse() @ sequence.world_from_camera(index, left).inverse()
    matrix = sequence.cameras[left].matrix
    half = np.diag([0.5, 0.5, 1.0])  # every second pixel, from pixel (0, 0) on
    for other in [index, *sorted(others)]:
        view_depth = np.ascontiguousarray(depth(other)[::2, ::2])
        yield DepthView(
            depth=view_depth,
            matrix=half @ matrix,
            grid_from_camera=grid_from_world @ sequence.world_from_camera(other, left),
            focal_baseline=focal_baseline,
            trust=3.0 if other == index else 1.0,
        )


def fused_voxels(
    views: list[DepthView], settings: FusionSettings, volume: Volume, *, seed: int
) -> dict[str, NDArray[Any]]:
    """Evidence on a grid ahead of the camera, slightly turned and shifted at random against its axes."""
    generator = np.random.default_rng(seed)
    half = volume.voxel_size / 2.0
    yaw, offset = generator.uniform(-0.15, 0.15), generator.uniform(-half, half, 3)
    cos, sin = np.cos(yaw), np.sin(yaw)
    turned_from_grid = RigidTransform(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]), np.zeros(3))
    fused = volume.fused_grid
    x, y, z = fused.origin
    grid = dataclasses.replace(fused, origin=(x + offset[0], y + offset[1], z + offset[2]))
    turned = [
        DepthView(v.depth, v.matrix, turned_from_grid @ v.grid_from_camera, v.focal_baseline, v.trust) for v in views
    ]
    centres, target, evidence = fuse_occupancy(
        turned, grid, free_samples=settings.free_samples, generator=generator, depths=volume.fused_depth
    )
    optical = (OPTICAL_FROM_FORWARD @ turned_from_grid.inverse()).apply(centres)
    return _stored(np.asarray(optical), target, evidence, settings.kept, generator)


def exact_voxels(sequence: PosedSequence, index: int, left: str, *, kept: int) -> dict[str, NDArray[Any]]:
    """Ground truth of a rendered frame as voxel centres with evidence, and with classes where the image shows them.

    What no sensor could ever tell is left out: what lies below the ground, and insides of houses, cars and crowns. A
    class (`COMMON_CLASSES`, 0 free, 255 unknown) is known of what lies in the image, seen or hidden.

    Args:
        sequence: Sequence with the assets "voxel_label" and "voxel_flags".
        left: Camera that the stored grid stands around.
        kept: Most voxels kept, half of them occupied.
    """
    label, flags = sequence.asset(index, "voxel_label"), sequence.asset(index, "voxel_flags")
    if label is None or flags is None:
        raise SequenceError("holds no ground truth voxels", where=f"{sequence.name}, frame {index}")
    stored = sequence.provenance["voxel_grid"]
    grid = VoxelGrid(tuple(stored["origin"]), stored["voxel_size"], tuple(stored["shape"]), left)
    known = np.flatnonzero((flags & (BELOW_GROUND | INTERIOR)).ravel() == 0)
    centres = grid.centres().reshape(-1, 3)[known]
    target = (label.ravel()[known] > 0).astype(np.float32)
    optical = np.asarray(DEFAULT_GRID_FROM_CAMERA.inverse().apply(centres))
    classes = np.where(flags & IN_VIEW, SEMANTIC_KITTI_TO_COMMON.apply(label), np.uint8(INVALID)).ravel()[known]
    return _stored(optical, target, np.ones_like(target), kept, np.random.default_rng(index), classes)


def _stored(
    points: NDArray[np.floating[Any]],
    target: NDArray[np.float32],
    evidence: NDArray[np.float32],
    kept: int,
    generator: np.random.Generator,
    classes: NDArray[np.uint8] | None = None,
) -> dict[str, NDArray[Any]]:
    """A random choice of voxels as they are stored, half of them with hits; with their classes where known."""
    groups = (np.flatnonzero(target > 0), np.flatnonzero(target == 0))
    chosen = np.concatenate([generator.permutation(group)[: kept // 2] for group in groups])
    known = {} if classes is None else {"label": classes[chosen]}
    return known | {
        "points": np.round(points[chosen] / POINT_UNIT).astype(np.int16),
        "target": np.round(target[chosen] * 255).astype(np.uint8),
        "evidence": evidence[chosen].astype(np.float16),
    }


def no_voxels() -> dict[str, NDArray[Any]]:
    """What is known of a frame without stereo."""
    return {"points": np.zeros((0, 3), np.int16), "target": np.zeros(0, np.uint8), "evidence": np.zeros(0, np.float16)}
