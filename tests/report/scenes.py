"""A small scene that differs in every direction: road ahead, a tall block ahead on the left, one low behind it."""

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, VoxelState

GRID = VoxelGrid((0.0, -4.0, -2.0), 0.2, (60, 40, 20), "camera_forward")
CAMERA = Camera(100.0, 100.0, 79.5, 39.5, 160, 80)
NAMES = ("road", "wall", "hedge")
COLOURS = ((90, 90, 100), (220, 30, 30), (30, 160, 40))

WALL = (slice(20, 25), slice(25, 35), slice(2, 20))  # x 4..5 m, y 1..3 m (left), up to z 2 m
HEDGE = (slice(45, 50), slice(25, 35), slice(2, 6))  # x 9..10 m, hidden by the wall


def street(*, classes: bool = True, stamp_ns: int = 1_500_000_000) -> SemanticVoxels:
    state = np.full(GRID.shape, VoxelState.FREE_SEEN, dtype=np.uint8)
    label = np.zeros(GRID.shape, dtype=np.uint8)
    state[:, :, :2] = VoxelState.SURFACE
    state[25:, 25:35, 2:] = VoxelState.FREE_INFERRED
    state[WALL], label[WALL] = VoxelState.SURFACE, 1
    state[HEDGE], label[HEDGE] = VoxelState.COMPLETED, 2
    state[:3] = VoxelState.UNOBSERVED
    index = np.argwhere(state >= VoxelState.SURFACE).astype(np.int32)
    count = len(index)
    return SemanticVoxels(
        grid=GRID,
        grid_from_camera=DEFAULT_GRID_FROM_CAMERA,
        stamp_ns=stamp_ns,
        state=state,
        index=index,
        probability=np.linspace(0.4, 1.0, count, dtype=np.float32),
        label=label[tuple(index.T)] if classes else np.zeros(count, dtype=np.uint8),
        confidence=np.full(count, 0.5, dtype=np.float32),
        class_names=NAMES if classes else ("unlabelled",),
        class_colours=COLOURS if classes else ((128, 128, 128),),
    )


WORDS = ("wall", "<b>hedge</b> & co", "nothing at all")


def words_of_street() -> tuple[PhraseMatches, ...]:
    """Wall and hedge answer a word each, the front of the wall less surely; all of the road does nearly."""
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
TIMES = {"encode": 12.5, "total": 30.0}
