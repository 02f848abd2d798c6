"""Completed semantic occupancy of one image: what crosses the wall between inference, mapping, reports and ROS."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform


class VoxelState(IntEnum):
    """What is known of a voxel, from T, the transmittance between the camera and the voxel through the predicted grid.

    A voxel is occupied if its calibrated probability is at or above the threshold. Such a voxel is opaque, whatever the
    network's opacity of it: behind it, T is 0. Free voxels take from T the little opacity they have.

    Only ``FREE_SEEN`` may clear a costmap: ``FREE_INFERRED`` lies behind something and is a prediction.
    """

    UNOBSERVED = 0  # outside the camera's view: nothing is said about it
    FREE_SEEN = 1  # not occupied, T >= 0.5
    FREE_INFERRED = 2  # not occupied, T < 0.5
    SURFACE = 3  # occupied, T >= 0.5
    COMPLETED = 4  # occupied, T < 0.5: completed behind an obstacle


@dataclass(frozen=True, eq=False)
class SemanticVoxels:
    """A dense state grid, and sparse arrays over the occupied voxels.

    Raises GridError: array shapes contradict each other or the grid.
    """

    grid: VoxelGrid  # where the voxels lie; axes x forward, y left, z up
    grid_from_camera: RigidTransform  # pose of the optical frame (x right, y down, z forward) in the grid frame
    stamp_ns: int  # time of the image, nanoseconds
    state: NDArray[np.uint8]  # uint8 [X, Y, Z], values of :class:`VoxelState`
    index: NDArray[np.int32]  # int32 [N, 3], the occupied voxels (``SURFACE`` or ``COMPLETED``)
    probability: NDArray[np.float32]  # float32 [N], calibrated probability of being occupied
    label: NDArray[np.uint8]  # uint8 [N], index into ``class_names``
    confidence: NDArray[np.float32]  # float32 [N] in 0..1, confidence in the label
    class_names: tuple[str, ...] = ("unlabelled",)
    class_colours: tuple[tuple[int, int, int], ...] = ((128, 128, 128),)  # one RGB colour (0..255) a class

    def __post_init__(self) -> None:
        count = self.index.shape[0]
        expected = {
            "state": tuple(self.grid.shape),
            "index": (count, 3),
            "probability": (count,),
            "label": (count,),
            "confidence": (count,),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise GridError(f"shape {found} where {shape} is needed", where=f"SemanticVoxels.{name}")
        if len(self.class_names) != len(self.class_colours):
            what = f"{len(self.class_names)} class names but {len(self.class_colours)} colours"
            raise GridError(what, where="SemanticVoxels")

    def __len__(self) -> int:
        """Number of occupied voxels N."""
        return int(self.index.shape[0])

    def points_grid(self) -> NDArray[np.float32]:
        """Centres of the occupied voxels in the grid frame (x forward, y left, z up), metres, float32 [N, 3]."""
        origin = np.asarray(self.grid.origin, dtype=np.float64)
        return (origin + (self.index + 0.5) * self.grid.voxel_size).astype(np.float32)

    def points_camera(self) -> NDArray[np.float32]:
        """Centres of the occupied voxels in the camera's optical frame, metres, float32 [N, 3]."""
        return self.points_in(self.grid_from_camera.inverse())

    def points_in(self, frame_from_grid: RigidTransform) -> NDArray[np.float32]:
        """Centres of the occupied voxels in a frame in which the grid has a pose, metres, float32 [N, 3]."""
        rotation = frame_from_grid.rotation.astype(np.float32)
        points: NDArray[np.float32] = self.points_grid() @ rotation.T + frame_from_grid.translation.astype(np.float32)
        return points
