"""Ground truth of a folder: a posed sequence such as `scene-completion street-world` writes, or a KITTI window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.lidar import sparse_depth
from scene_completion_ros.evaluation.visibility import visible_voxels
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.scoring.truth import ALL, OCCLUDED, VISIBLE, DepthTruth, FrameTruth, VoxelTruth
from scene_completion_ros.sequences.kitti import VOXEL_SHAPE, kitti_odometry
from scene_completion_ros.sequences.posed_sequence import INDEX_NAME, PosedSequence

TOLERANCE_NS = 5_000_000  # between the stamps of an image and of its ground truth
IN_VIEW, SEEN, BELOW_GROUND, INTERIOR = 1, 2, 4, 8  # bits of "voxel_flags"
FREE, UNKNOWN = 0, 255  # labels of "ssc_label"
SEMANTIC_KITTI_GRID = VoxelGrid((0.0, -25.6, -2.2), 0.2, VOXEL_SHAPE, "velodyne")
_KITTI_CAMERAS = ("image_2", "image_0", "image_3", "image_1")


class SequenceTruth:
    """Ground truth of the frames of a folder.

    | folder | voxels | depth |
    |---|---|---|
    | posed sequence (`sequence.json`) | "voxel_label", "voxel_flags" on its provenance's grid | "depth", else LiDAR |
    | KITTI (`calib.txt`, `image_2`, …) | "ssc_label", "ssc_invalid" in the LiDAR's frame | LiDAR |

    Insides of solid things, which no sensor ever sees, do not count, nor does what is below the ground, unknown, or
    officially invalid.

    Args:
        camera: Name of the camera in it that took the images. By default it is the one that the voxels are around
            (posed sequence), the only one, or KITTI's left colour camera.
        offset_ns: Added to the stamps of the folder, so that they are those of the recording.

    Attributes:
        name: Of the sequence.

    Raises:
        SequenceError: The folder is neither, is damaged, has no such camera, or no ground truth at all.
    """

    def __init__(self, folder: Path | str, *, camera: str | None = None, offset_ns: int = 0) -> None:
        root = Path(folder)
        self.sequence = _open(root)
        self.name = self.sequence.name
        self.camera = _choose_camera(self.sequence, camera, str(root))
        self._offset_ns = offset_ns
        self._stamps = np.array([frame.stamp_ns + offset_ns for frame in self.sequence.frames], dtype=np.int64)
        known = {name for frame in self.sequence.frames for name in frame.assets}
        if not known & {"voxel_label", "ssc_label", "depth", "lidar"}:
            raise SequenceError(
                f"no ground truth among its assets ({', '.join(sorted(known)) or 'none'})",
                where=str(root),
                cure="Write voxel_label with voxel_flags, ssc_label with ssc_invalid, depth or lidar",
            )

    def check_times(self, start_ns: int, end_ns: int) -> None:
        """Refuse a folder of which no frame lies in the time of the recording.

        Raises:
            SequenceError: Says what offset would bring the first frames together.
        """
        inside = (self._stamps >= start_ns - TOLERANCE_NS) & (self._stamps <= end_ns + TOLERANCE_NS)
        if not inside.any():
            needed_s = (start_ns - int(self._stamps[0]) + self._offset_ns) / 1e9
            raise SequenceError(
                f"its frames are of {self._stamps[0] / 1e9:.3f} to {self._stamps[-1] / 1e9:.3f} s, the recording is of "
                f"{start_ns / 1e9:.3f} to {end_ns / 1e9:.3f} s",
                where=f"ground truth {self.name}",
                cure=f"If both begin with the same image, give --ground-truth-offset {needed_s:.9f}",
            )

    def at(self, stamp_ns: int, frame_id: str) -> FrameTruth | None:
        """Ground truth of the frame whose stamp is within 5 ms of the image's; the frame's name does not matter."""
        index = int(np.argmin(np.abs(self._stamps - stamp_ns)))
        if abs(int(self._stamps[index]) - stamp_ns) > TOLERANCE_NS:
            return None
        voxels, depth = self._voxels(index), self._depth(index)
        return None if voxels is None and depth is None else FrameTruth(voxels, depth)

    def _voxels(self, index: int) -> VoxelTruth | None:
        label, flags = self.sequence.asset(index, "voxel_label"), self.sequence.asset(index, "voxel_flags")
        if label is not None and flags is not None and self.camera == _centre_camera(self.sequence):
            return exact_truth(label, flags, self.sequence.voxel_grid())
        label, invalid = self.sequence.asset(index, "ssc_label"), self.sequence.asset(index, "ssc_invalid")
        if label is not None and invalid is not None and "velodyne" in self.sequence.rig_from_sensor:
            return self._measured(label, invalid)
        return None

    def _measured(self, label: NDArray[np.uint8], invalid: NDArray[np.bool_]) -> VoxelTruth:
        sequence, grid = self.sequence, SEMANTIC_KITTI_GRID
        grid_from_camera = sequence.rig_from_sensor["velodyne"].inverse() @ sequence.rig_from_camera[self.camera]
        occupied = (label != FREE) & (label != UNKNOWN)
        known = (label != UNKNOWN) & ~invalid
        centres = grid_from_camera.inverse().apply(grid.centres())
        in_view = np.asarray(sequence.cameras[self.camera].project(centres)[1])
        visible = visible_voxels(occupied, grid_from_camera.translation, grid, known)
        regions = {VISIBLE: in_view & visible, OCCLUDED: in_view & ~visible, ALL: in_view}
        return VoxelTruth(grid, grid_from_camera, occupied, known, regions)

    def _depth(self, index: int) -> DepthTruth | None:
        camera = self.sequence.cameras[self.camera]
        depth = self.sequence.asset(index, "depth") if self.camera == _centre_camera(self.sequence) else None
        if depth is None:
            points_rig = self.sequence.lidar(index)
            if points_rig is None:
                return None
            points = self.sequence.rig_from_camera[self.camera].inverse().apply(points_rig)
            depth = sparse_depth(np.asarray(points), camera)
        return DepthTruth(camera, np.asarray(depth, dtype=np.float32))


def exact_truth(label: NDArray[np.uint8], flags: NDArray[np.uint8], grid: VoxelGrid) -> VoxelTruth:
    """Ground truth from the arrays that the street world stores.

    Args:
        label: uint8 [X, Y, Z], 0 is free.
        flags: uint8 [X, Y, Z], bits `IN_VIEW`, `SEEN`, `BELOW_GROUND`, `INTERIOR`.
    """
    visible = (flags & SEEN) > 0
    occluded = ((flags & IN_VIEW) > 0) & ~visible & ((flags & INTERIOR) == 0)
    regions = {VISIBLE: visible, OCCLUDED: occluded, ALL: visible | occluded}
    return VoxelTruth(grid, DEFAULT_GRID_FROM_CAMERA, label > 0, (flags & BELOW_GROUND) == 0, regions)


def _open(root: Path) -> PosedSequence:
    if (root / INDEX_NAME).is_file():
        return PosedSequence.load(root)
    if (root / "calib.txt").is_file():
        return kitti_odometry(root)
    raise SequenceError(
        f"neither {INDEX_NAME} nor calib.txt in it",
        where=str(root),
        cure="Name a folder of scene-completion street-world, or a sequence of KITTI odometry",
    )


def _centre_camera(sequence: PosedSequence) -> str | None:
    """The camera that a posed sequence's depth and voxels belong to, as its provenance says."""
    stored: Any = sequence.provenance.get("voxel_grid")
    return str(stored["around"]) if isinstance(stored, dict) and "around" in stored else None


def _choose_camera(sequence: PosedSequence, name: str | None, where: str) -> str:
    if name is not None and name not in sequence.cameras:
        raise SequenceError(
            f"no camera {name!r}", where=where, cure=f"Its cameras are {', '.join(sorted(sequence.cameras))}"
        )
    candidates = (name, _centre_camera(sequence), *_KITTI_CAMERAS, *sequence.cameras)
    return next(candidate for candidate in candidates if candidate in sequence.cameras and candidate is not None)
