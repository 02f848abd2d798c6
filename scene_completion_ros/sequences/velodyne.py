"""Scans, labels and voxel grids as KITTI, KITTI-360 and SemanticKITTI publish them: plain binary files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

VOXEL_SHAPE = (256, 256, 32)
SEMANTIC_KITTI_GRID = VoxelGrid((0.0, -25.6, -2.2), 0.2, VOXEL_SHAPE, "velodyne")
UNKNOWN = 255
SEMANTIC_KITTI_LEARNING_IDS: dict[int, int] = {
    0: 0,  # empty
    1: UNKNOWN,  # outlier
    10: 1,  # car
    11: 2,  # bicycle
    13: 5,  # bus
    15: 3,  # motorcycle
    16: 5,  # on rails
    18: 4,  # truck
    20: 5,  # other vehicle
    30: 6,  # person
    31: 7,  # bicyclist
    32: 8,  # motorcyclist
    40: 9,  # road
    44: 10,  # parking
    48: 11,  # sidewalk
    49: 12,  # other ground
    50: 13,  # building
    51: 14,  # fence
    52: UNKNOWN,  # other structure
    60: 9,  # lane marking
    70: 15,  # vegetation
    71: 16,  # trunk
    72: 17,  # terrain
    80: 18,  # pole
    81: 19,  # traffic sign
    99: UNKNOWN,  # other object
    252: 1,  # moving car
    253: 7,  # moving bicyclist
    254: 6,  # moving person
    255: 8,  # moving motorcyclist
    256: 5,  # moving on rails
    257: 5,  # moving bus
    258: 4,  # moving truck
    259: 5,  # moving other vehicle
}  # raw id -> learning id of SemanticKITTI's voxels: 1..19, 0 empty, 255 without a class


def load_scan(path: Path, rig_from_velodyne: RigidTransform, columns: int = 4) -> NDArray[np.float32]:
    """Points of `velodyne*/*.bin`: float32 [N, 3], rig frame; `columns`: numbers of a point, the first x, y, z."""
    points_velodyne = _scan(path, columns)[:, :3].astype(np.float64)
    return np.asarray(rig_from_velodyne.apply(points_velodyne), dtype=np.float32)


def load_scan_reflectance(path: Path) -> NDArray[np.float32]:
    """Load the reflectance of a `velodyne*/*.bin` scan: float32 [N] in 0..1."""
    return np.ascontiguousarray(_scan(path)[:, 3])


def load_semantic_ids(path: Path) -> NDArray[np.uint16]:
    """Load the class of every point from a SemanticKITTI `labels/*.label`: raw ids, uint16 [N]."""
    return np.asarray(_numbers(path, np.dtype("<u4")) & 0xFFFF, dtype=np.uint16)


def load_instance_ids(path: Path) -> NDArray[np.uint16]:
    """Load the instance of every point from a SemanticKITTI `labels/*.label`: uint16 [N]."""
    return np.asarray(_numbers(path, np.dtype("<u4")) >> 16, dtype=np.uint16)


def load_voxel_mask(path: Path) -> NDArray[np.bool_]:
    """Load a SemanticKITTI `voxels/*.bin`, `.invalid` or `.occluded`: bool [256, 256, 32]."""
    return unpack_voxels(_numbers(path, np.dtype(np.uint8)), str(path))


def load_voxel_ids(path: Path) -> NDArray[np.uint16]:
    """Load a SemanticKITTI `voxels/*.label`: raw class ids (0 free), uint16 [256, 256, 32]."""
    labels = _numbers(path, np.dtype("<u2"))
    if labels.size != np.prod(VOXEL_SHAPE):
        what = f"{labels.size} voxels instead of {np.prod(VOXEL_SHAPE)}"
        raise SequenceError(what, where=str(path), cure="Restore the file")
    return np.asarray(labels.reshape(VOXEL_SHAPE), dtype=np.uint16)


def load_semantic_kitti_labels(path: Path) -> NDArray[np.uint8]:
    """Load a SemanticKITTI `voxels/*.label` with the `.invalid` beside it, as the benchmark evaluates them.

    Returns learning ids, uint8 [256, 256, 32]: 0 empty, 255 does not count. The latter is what is invalid, labelled or
    not, and what is occupied by something without a class. Raises SequenceError where a file is missing, too short or
    too long, or holds ids that SemanticKITTI has not.
    """
    raw = load_voxel_ids(path)
    table = np.full(np.iinfo(np.uint16).max + 1, -1, dtype=np.int16)
    table[list(SEMANTIC_KITTI_LEARNING_IDS)] = list(SEMANTIC_KITTI_LEARNING_IDS.values())
    labels = table[raw]
    if (labels < 0).any():
        unknown = np.unique(raw[labels < 0])[:8].tolist()
        raise SequenceError(f"raw ids {unknown} are unknown", where=str(path), cure="Restore the file")
    labels[load_voxel_mask(path.with_suffix(".invalid"))] = UNKNOWN
    return labels.astype(np.uint8)


def unpack_voxels(bits: NDArray[np.uint8], where: str) -> NDArray[np.bool_]:
    """Unpack a grid of one bit a voxel: bool [256, 256, 32]."""
    expected = int(np.prod(VOXEL_SHAPE)) // 8
    if bits.size != expected:
        raise SequenceError(f"{bits.size} bytes instead of {expected}", where=where, cure="Restore the file")
    return np.unpackbits(bits).reshape(VOXEL_SHAPE).astype(bool)


def _scan(path: Path, columns: int = 4) -> NDArray[np.float32]:
    values = _numbers(path, np.dtype("<f4"))
    if values.size % columns:
        raise SequenceError(
            f"{values.size} numbers are no points of x, y, z, reflectance"
            + (f" and so on, {columns} in all" if columns > 4 else ""),
            where=str(path),
            cure="Restore the file, it is cut short",
        )
    return np.asarray(values.reshape(-1, columns), dtype=np.float32)


def _numbers(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SequenceError(f"cannot be read: {error.strerror}", where=str(path), cure="Restore the file") from error
    if len(content) % kind.itemsize:
        what = f"{len(content)} bytes, no multiple of {kind.itemsize}"
        raise SequenceError(what, where=str(path), cure="Restore the file, it is cut short")
    return np.frombuffer(content, kind)
