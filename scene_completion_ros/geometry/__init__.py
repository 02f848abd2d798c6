"""Cameras, rigid transforms and voxel grids: pure functions on NumPy arrays and torch tensors."""

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform

__all__ = [
    "DEFAULT_GRID",
    "DEFAULT_GRID_FROM_CAMERA",
    "OPTICAL_FROM_FORWARD",
    "Camera",
    "Resampler",
    "RigidTransform",
    "VoxelGrid",
]
