"""A street with one wall, whose truth is known by hand."""

from collections.abc import Sequence

import numpy as np

from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.evaluation.semantics import SemanticCompletionMetric, SemanticTally
from scene_completion_ros.evaluation.truth import BELOW_GROUND, IN_VIEW, INTERIOR, SEEN, VoxelTruth
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.evaluation.geometry import voxel_frames
from scene_completion_training.evaluation.predictor import Prediction, Predictor
from scene_completion_training.evaluation.semantic_evaluation import FittedModel, Sampling, fit_models

CAMERA = Camera(fx=40.0, fy=40.0, cx=31.5, cy=11.5, width=64, height=24)
GRID = VoxelGrid((0.0, -25.6, -2.4), 0.8, (64, 64, 8))
SENSOR = RigidTransform(OPTICAL_FROM_FORWARD.rotation, np.zeros(3))  # at the camera, x forward, y left, z up
FRAMES, STEP = 10, 0.25
WALL_LEFT, WALL_RIGHT, WALL_FRONT, WALL_BACK = -1.0, 3.0, 10.0, 12.0
"""A wall without end in height, in the optical frame of the first camera."""

CAR = COMMON_CLASSES.index("car")


def in_wall(points: np.ndarray, ahead: float = 0.0) -> np.ndarray:
    x, z = points[..., 0], points[..., 2] + ahead
    return (x >= WALL_LEFT) & (x <= WALL_RIGHT) & (z >= WALL_FRONT) & (z <= WALL_BACK)


def shadowed(points: np.ndarray) -> np.ndarray:
    """Behind the wall's front, seen from the first camera."""
    where = points[..., 0] / np.maximum(points[..., 2], 1e-3) * WALL_FRONT
    return (where >= WALL_LEFT) & (where <= WALL_RIGHT) & (points[..., 2] >= WALL_FRONT)


def scan(ahead: float) -> np.ndarray:
    """Returns of the wall's front, and of something 60 m away everywhere else, in the rig frame."""
    angle = np.radians(np.arange(-179.9, 180.0, 0.2))  # to the right of straight ahead
    front = WALL_FRONT - ahead
    x = front * np.tan(angle)
    hit = (np.abs(angle) < np.pi / 2) & (x >= WALL_LEFT) & (x <= WALL_RIGHT)
    distance = np.where(hit, front / np.cos(angle), 60.0)
    return np.stack(
        [distance * np.sin(angle), np.full_like(angle, 0.3), distance * np.cos(angle)], -1, dtype=np.float32
    )


def voxels() -> tuple[np.ndarray, np.ndarray]:
    """Labels and flags of the first frame; the wall's back is its interior, what is 1.6 m down is below ground."""
    centres = OPTICAL_FROM_FORWARD.apply(GRID.centres().astype(np.float64))
    wall, hidden = in_wall(centres), shadowed(centres)
    front = wall & (centres[..., 2] < 11.0)
    flags = IN_VIEW * CAMERA.project(centres)[1].astype(np.uint8)
    flags |= (SEEN * (~hidden | front)).astype(np.uint8) & (flags * SEEN)
    flags |= (BELOW_GROUND * (centres[..., 1] > 1.6)).astype(np.uint8)
    flags |= (INTERIOR * (wall & ~front)).astype(np.uint8)
    return wall.astype(np.uint8), flags


def make_street(assets: tuple[str, ...] = ("lidar", "depth", "voxel_label", "voxel_flags")) -> PosedSequence:
    label, flags = voxels()
    image = np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3)).astype(np.uint8)
    x = (np.arange(CAMERA.width) - CAMERA.cx) / CAMERA.fx * WALL_FRONT
    row = np.where((x >= WALL_LEFT) & (x <= WALL_RIGHT), WALL_FRONT, np.inf)  # the sky next to the wall
    depth = np.broadcast_to(row, (CAMERA.height, CAMERA.width)).astype(np.float32)
    frames = []
    for index in range(FRAMES):
        loaders = {"lidar": lambda index=index: scan(STEP * index)}
        if index == 0:
            loaders |= {"depth": lambda: depth, "voxel_label": lambda: label, "voxel_flags": lambda: flags}
        held = {name: loader for name, loader in loaders.items() if name in assets}
        pose = RigidTransform(np.eye(3), np.array([0.0, 0.0, STEP * index]))
        frames.append(Frame(index * 100_000_000, {"camera_left": lambda: image}, pose, held))
    grid = {"origin": list(GRID.origin), "voxel_size": GRID.voxel_size, "shape": list(GRID.shape)}
    return PosedSequence(
        name="one_wall",
        cameras={"camera_left": CAMERA},
        rig_from_camera={"camera_left": RigidTransform.identity()},
        frames=frames,
        provenance={"voxel_grid": grid},
        pose_source="by hand",
        rig_from_sensor={"velodyne": SENSOR},
    )


class Wall(Predictor):
    """Knows the wall, and how thick it is."""

    name = "wall"

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        ahead = float(sequence.frames[index].world_from_rig.translation[2])
        return Prediction(CAMERA, lambda points: np.where(in_wall(points, ahead), 50.0, 0.0).astype(np.float32))


class PaintedWall(Predictor):
    """Knows the wall; its left half differs from its right half."""

    name = "painted wall"

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        def codes(points: np.ndarray) -> np.ndarray:
            left = points[:, 0] < 1.0
            return np.stack([left, ~left], axis=-1).astype(np.float32)

        return Prediction(CAMERA, lambda points: 20.0 * in_wall(points).astype(np.float32), codes=codes, units=codes)


def true_voxels(street: PosedSequence) -> VoxelTruth:
    """Those of its first frame."""
    return voxel_truth(street, 0)


def fit(models: Sequence[Predictor], street: PosedSequence) -> list[FittedModel]:
    """Two clusters of the wall, named by it."""
    frames = [(street, index) for index in range(len(street))]
    return fit_models(models, Sampling(0.5), frames, voxel_frames([street]), clusters=2, points_a_frame=200)


def score(models: Sequence[Predictor], recordings: Sequence[PosedSequence]) -> list[SemanticCompletionMetric]:
    """Labels of each model against the classes of recordings."""
    tallies = [SemanticTally(model) for model in models]
    for frame in voxel_frames(recordings):
        for model, tally in zip(models, tallies, strict=True):
            tally.add(model.answer(frame))
    return [tally._metric for tally in tallies if tally._metric is not None]
