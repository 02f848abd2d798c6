"""Cameras, rigid transforms and voxel grids: pure functions on NumPy arrays and torch tensors."""

from scene_completion_ros.geometry.camera_files import (
    camera_from_camera_info,
    camera_from_projection,
    read_camera,
    read_kitti360_fisheye,
    read_kitti_calibration,
)
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.distortion import DistortionModel
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid, read_grid
from scene_completion_ros.geometry.resampling import Resampler, view_rotation, virtual_pinhole
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, TransformError

__all__ = [
    "DEFAULT_GRID",
    "DEFAULT_GRID_FROM_CAMERA",
    "OPTICAL_FROM_FORWARD",
    "Camera",
    "DistortionModel",
    "Resampler",
    "RigidTransform",
    "TransformError",
    "VoxelGrid",
    "camera_from_camera_info",
    "camera_from_projection",
    "read_camera",
    "read_grid",
    "read_kitti360_fisheye",
    "read_kitti_calibration",
    "view_rotation",
    "virtual_pinhole",
]
