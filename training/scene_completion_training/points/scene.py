"""A scene of points with what its source knows of it, and the posed RGB-D views that it was made of."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class RgbdView:
    """One posed image with depth that is registered to it; both are read when asked for."""

    name: str
    camera: Camera  # of the image; the depth image may have another size, and then `camera.resized` is its camera
    world_from_camera: RigidTransform  # optical frame: x right, y down, z ahead
    image: Callable[[], NDArray[np.uint8]]  # RGB [H, W, 3]
    depth: Callable[[], NDArray[np.float32]]  # z-depth [h, w], metres; 0 where unknown
    # Classes of pixels [h, w], of any size, `UNLABELLED` where nobody knows; None where there are none.
    label: Callable[[], NDArray[np.int64]] | None = None


@dataclass(frozen=True, eq=False)
class PointScene:
    """A cloud of N points, z up."""

    name: str
    points: NDArray[np.float32]  # [N, 3], metres, world frame of the views
    colours: NDArray[np.float32] | None = None  # [N, 3] in 0..1
    normals: NDArray[np.float32] | None = None  # [N, 3], unit length; zero where unknown
    classes: tuple[str, ...] = ()  # K names
    label: NDArray[np.int64] | None = None  # [N] in 0..K - 1, `UNLABELLED` where nobody knows
    instance: NDArray[np.int64] | None = None  # [N], `UNLABELLED` where a point is of no thing
    segment: NDArray[np.int64] | None = None  # [N], oversegmentation of the mesh
    views: tuple[RgbdView, ...] = ()

    def __len__(self) -> int:
        return len(self.points)
