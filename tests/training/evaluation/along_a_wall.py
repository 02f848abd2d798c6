"""A camera that moves along a wall, and features that are painted on it."""

from __future__ import annotations

import numpy as np
from scene_completion_training.evaluation.feature_evaluation import LATER

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence

CAMERA = Camera(fx=20.0, fy=20.0, cx=19.5, cy=9.5, width=40, height=20)
DEPTH, SIDEWAYS = 10.0, 2.0
SHIFT = 4
"""Pixels by which the wall moves to the left between two frames: fx · 2 m / 10 m."""
NEXT = LATER.format(step=1)


def along_a_wall(frames: int = 3, *, exact: bool = True) -> PosedSequence:
    """A camera that moves to the right along a wall 10 m away, with its exact depth; the first row is the sky."""

    def depth() -> np.ndarray:
        wall = np.full((CAMERA.height, CAMERA.width), DEPTH, np.float32)
        wall[0] = np.inf
        return wall

    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    return PosedSequence(
        name="wall",
        cameras={"camera_left": CAMERA},
        rig_from_camera={"camera_left": RigidTransform.identity()},
        frames=[
            Frame(
                stamp_ns=index,
                images={"camera_left": lambda: image},
                world_from_rig=RigidTransform(np.eye(3), np.array([SIDEWAYS * index, 0.0, 0.0])),
                assets={"depth": depth} if exact else {},
            )
            for index in range(frames)
        ],
        pose_source="by hand",
    )
