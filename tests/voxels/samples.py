"""Voxels for tests: written out by hand, a street that differs in every direction, and random ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_DTYPE
from scene_completion_ros.voxels.colours import voxel_colours
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, VoxelState

UNOBSERVED, FREE, INFERRED, SURFACE, COMPLETED = VoxelState
NAMES = ("road", "car", "wall")
STREET = ("road", "wall", "hedge")  # names of the classes of `street`
COLOURS = ((90, 90, 100), (220, 30, 30), (30, 160, 40))

Values = Mapping[tuple[int, ...], float] | NDArray[Any] | None
"""A value for some voxels, by their index, or a dense array of all."""


def voxels_of(
    state: np.ndarray,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    size: float = 1.0,
    *,
    labels: Values = None,
    probabilities: Values = None,
    confidence: float = 1.0,
    stamp_ns: int = 0,
) -> SemanticVoxels:
    """Voxels of some states; by default those occupied are of class 1 with probability 0.75."""
    state = np.asarray(state, dtype=np.uint8)
    index = np.argwhere(state >= SURFACE).astype(np.int32)

    def taken(values: Values, otherwise: float) -> NDArray[Any]:
        if isinstance(values, np.ndarray):
            return np.asarray(values[tuple(index.T)])
        found = np.full(len(index), otherwise)
        for place, value in (values or {}).items():
            found[(index == place).all(axis=1)] = value
        return found

    return SemanticVoxels(
        grid=VoxelGrid(origin, size, state.shape),
        grid_from_camera=DEFAULT_GRID_FROM_CAMERA,
        stamp_ns=stamp_ns,
        state=state,
        index=index,
        probability=taken(probabilities, 0.75).astype(np.float32),
        label=taken(labels, 1).astype(np.uint8),
        confidence=np.full(len(index), confidence, dtype=np.float32),
        class_names=NAMES,
        class_colours=COLOURS,
    )


def bytes_to_state_and_label(dense: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """State and label of every voxel, uint8 as `dense`; the label of what is not occupied is 0."""
    above = np.maximum(dense, SURFACE) - np.uint8(SURFACE)
    return np.where(dense >= SURFACE, SURFACE + above % 2, dense).astype(np.uint8), above // 2


# A street: road ahead, a tall wall ahead on the left, a low hedge behind it.
GRID = VoxelGrid((0.0, -4.0, -2.0), 0.2, (60, 40, 20), "camera_forward")
CAMERA = Camera(100.0, 100.0, 79.5, 39.5, 160, 80)
WALL = (slice(20, 25), slice(25, 35), slice(2, 20))  # x 4..5 m, y 1..3 m (left), up to z 2 m
HEDGE = (slice(45, 50), slice(25, 35), slice(2, 6))  # x 9..10 m, hidden by the wall


def street(stamp_ns: int = 1_500_000_000) -> SemanticVoxels:
    state, label = np.full(GRID.shape, FREE, dtype=np.uint8), np.zeros(GRID.shape, dtype=np.uint8)
    state[:, :, :2] = SURFACE
    state[25:, 25:35, 2:] = INFERRED
    state[WALL], label[WALL] = SURFACE, 1
    state[HEDGE], label[HEDGE] = COMPLETED, 2
    state[:3] = UNOBSERVED
    voxels = voxels_of(state, GRID.origin, GRID.voxel_size, labels=label, confidence=0.5, stamp_ns=stamp_ns)
    probability = np.linspace(0.4, 1.0, len(voxels), dtype=np.float32)
    return replace(voxels, grid=GRID, probability=probability, class_names=STREET)


def some_voxels(count: int, stamp_ns: int = 0, classes: int = 1) -> SemanticVoxels:
    """`count` random occupied voxels of the default grid."""
    rng = np.random.default_rng(1)
    index = np.unravel_index(rng.choice(int(np.prod(DEFAULT_GRID.shape)), count, replace=False), DEFAULT_GRID.shape)
    state = np.full(DEFAULT_GRID.shape, FREE, np.uint8)
    state[index] = rng.choice([SURFACE, COMPLETED], count)
    return replace(
        voxels_of(state, stamp_ns=stamp_ns),
        grid=DEFAULT_GRID,
        probability=rng.uniform(0.5, 1.0, count).astype(np.float32),
        label=rng.integers(0, classes, count).astype(np.uint8),
        confidence=rng.uniform(0.0, 1.0, count).astype(np.float32),
        class_names=tuple(f"class {number}" for number in range(classes)),
        class_colours=tuple((number * 40, 10, 200) for number in range(classes)),
    )


def voxels_to_cloud_array(voxels: SemanticVoxels, frame_from_grid: RigidTransform | None = None) -> NDArray[np.void]:
    """The readable twin of `cloud_kernel.write_cloud`."""
    points = voxels.points_camera() if frame_from_grid is None else voxels.points_in(frame_from_grid)
    cloud = np.zeros(len(points), dtype=VOXEL_CLOUD_DTYPE)
    cloud["x"], cloud["y"], cloud["z"] = points.T
    rgb = voxel_colours(voxels.label, voxels.points_grid()[:, 2], voxels.class_colours).astype(np.uint32)
    cloud["rgb"] = (rgb[:, 0] << 16) | (rgb[:, 1] << 8) | rgb[:, 2]
    cloud["state"] = voxels.state[tuple(voxels.index.T)]
    cloud["probability"], cloud["label"] = voxels.probability, voxels.label
    cloud["confidence"] = np.rint(np.clip(voxels.confidence, 0.0, 1.0) * 255.0)
    return cloud


WORDS = ("wall", "<b>hedge</b> & co", "nothing at all")


def words_of_street() -> tuple[PhraseMatches, ...]:
    """Wall and hedge match a word each, the front of the wall less surely; all of the road nearly does."""
    scene = street()
    probability = np.zeros((len(WORDS), len(scene)), dtype=np.float32)
    probability[0] = np.where(scene.label == 1, np.where(scene.index[:, 0] == WALL[0].start, 0.65, 0.95), 0.49)
    probability[1] = np.where(scene.label == 2, 0.85, 0.0)
    found = [np.flatnonzero(row).astype(np.int32) for row in probability]
    return tuple(
        PhraseMatches(word, voxels, row[voxels], row[voxels])
        for word, voxels, row in zip(WORDS, found, probability, strict=True)
    )


def photo() -> NDArray[np.uint8]:
    """An RGB image [80, 160, 3] that is red on the left."""
    image = np.full((80, 160, 3), 120, dtype=np.uint8)
    image[:, :40] = (255, 0, 0)
    return image


SEEN = (photo(), np.full((40, 80), 7.0, np.float32), CAMERA)  # image, depth and camera of each frame
