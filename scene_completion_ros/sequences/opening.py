"""The door for recordings of every kind, and for what is true of their frames."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.scan_voxels import scan_truth
from scene_completion_ros.evaluation.truth import UNKNOWN, DepthTruth, VoxelTruth, labelled_truth
from scene_completion_ros.geometry import RigidTransform, VoxelGrid
from scene_completion_ros.geometry.depth_images import sparse_depth
from scene_completion_ros.sequences import (
    from_bag,
    kitti,
    kitti_360,
    kitti_raw,
    posed_rgbd,
    posed_sequence,
    realestate10k,
)
from scene_completion_ros.sequences.posed_sequence import PosedSequence, Source, reference_camera, stored_around

SOURCES: tuple[Source, ...] = (
    posed_sequence.SOURCE,
    kitti_360.SOURCE,
    kitti_raw.SOURCE,
    kitti.SOURCE,
    realestate10k.SOURCE,
    posed_rgbd.SOURCE,
    from_bag.SOURCE,
)  # the first that recognises a path opens it


def open_recording(path: Path | str, *, poses: str | None = None) -> PosedSequence:
    """Open a recording of any kind: a sequence folder, a town, a bag, a drive of KITTI or KITTI-360.

    Raises SequenceError where it is none of them, or damaged; BagError where it is a bag without usable images or
    poses. `poses`: name of the pose file, where a folder has several. "none": there are none, or they do
    not matter: each frame stands by itself.
    """
    path = Path(path)
    for source in SOURCES:
        if source.recognises(path):
            return source.open(path, poses)
    cure = f"Name {', or '.join(source.looks_like for source in SOURCES)}"
    raise SequenceError("is no recording" if path.exists() else "no such file or folder", where=str(path), cure=cure)


def voxel_truth(sequence: PosedSequence, index: int, camera: str | None = None) -> VoxelTruth | None:
    """Voxels that a recording holds of a frame, around a camera (the reference camera by default); None without any."""
    for source in SOURCES:
        if source.voxels is not None and holds_voxels(sequence, index, source):
            return source.voxels(sequence, index, camera or reference_camera(sequence))
    return None


def truth_later(sequence: PosedSequence, index: int) -> VoxelTruth | None:
    """Measured voxels of the first frame as truth of a later one, around its reference camera; None without any.

    The grid moves along with the camera by whole voxels straight ahead, and what is new at its end is unknown. What
    moves by itself is where it was; measured voxels of drives hold it as the trace that it left anyway.
    """
    name = reference_camera(sequence)
    first = voxel_truth(sequence, 0, name)
    if first is None:
        return None
    moved = sequence.world_from_camera(0, name).inverse() @ sequence.world_from_camera(index, name)
    pose, grid = first.grid_from_camera @ moved, first.grid
    way = pose.translation[0] - first.grid_from_camera.translation[0]
    step = min(max(0, round(way / grid.voxel_size)), grid.shape[0])
    label = np.full(grid.shape, UNKNOWN, np.uint8)
    invalid = np.ones(grid.shape, np.bool_)
    label[: grid.shape[0] - step], invalid[: grid.shape[0] - step] = first.labels[step:], ~first.known[step:]
    x, y, z = grid.origin
    ahead = VoxelGrid((x + step * grid.voxel_size, y, z), grid.voxel_size, grid.shape)
    return labelled_truth(first.source, label, invalid, ahead, pose, sequence.cameras[name], first.class_map)


def scan_voxels(sequence: PosedSequence, index: int) -> VoxelTruth | None:
    """What the scan of a frame alone knows of the voxels around its reference camera; None without any."""
    name, points = reference_camera(sequence), sequence.lidar(index)
    placed = sensor_pose(sequence, index)
    if points is None or placed is None:
        return None
    camera_from_rig = sequence.rig_from_camera[name].inverse()
    return scan_truth(camera_from_rig.apply(points), camera_from_rig.apply(placed.translation), sequence.cameras[name])


def sensor_pose(sequence: PosedSequence, index: int) -> RigidTransform | None:
    """Pose of the LiDAR in the rig when it made the scan of a frame; None where that is unknown."""
    stored = sequence.asset(index, "lidar_pose")
    return sequence.rig_from_sensor.get("velodyne") if stored is None else RigidTransform.from_matrix(stored)


def holds_voxels(sequence: PosedSequence, index: int = 0, source: Source | None = None) -> bool:
    """Whether a frame has the assets of true voxels, as one source writes them, or any."""
    asked = SOURCES if source is None else (source,)
    assets = sequence.frames[index].assets.keys()
    return any(one.voxel_assets and assets >= set(one.voxel_assets) for one in asked)


def lidar_depth(sequence: PosedSequence, index: int, camera: str | None = None) -> NDArray[np.float32] | None:
    """LiDAR as z-depth [H, W], metres, of a camera or the reference one; 0 where no point fell, None without scan."""
    points_rig, name = sequence.lidar(index), camera or reference_camera(sequence)
    if points_rig is None:
        return None
    return sparse_depth(sequence.rig_from_camera[name].inverse().apply(points_rig), sequence.cameras[name])


def depth_truth(sequence: PosedSequence, index: int, camera: str | None = None) -> DepthTruth | None:
    """The stored depth of a frame, where it belongs to the camera, or that of its LiDAR."""
    name = camera or reference_camera(sequence)
    stored = sequence.asset(index, "depth") if name == stored_around(sequence) else None
    depth = lidar_depth(sequence, index, name) if stored is None else stored
    return None if depth is None else DepthTruth(sequence.cameras[name], np.asarray(depth, dtype=np.float32))
