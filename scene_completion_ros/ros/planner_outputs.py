"""What the node publishes for planners and for looking at, made of the voxels only where somebody subscribed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import Marker

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.mapping.clearing_kernel import ClearingRays
from scene_completion_ros.mapping.ground_map import GroundProjection, ignored_labels
from scene_completion_ros.mapping.points import obstacle_points, seen_free_cubes
from scene_completion_ros.ros.counters import FrameCounters
from scene_completion_ros.ros.output_messages import (
    occupancy_grid_message,
    points_message,
    voxel_grid_info_message,
    voxel_grid_message,
    voxels_marker,
)
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.publishing import LATCHED_QOS, Create, subscribed
from scene_completion_ros.ros.topics import (
    CLEARING,
    FREE_SPACE,
    MARKERS,
    OBSTACLES,
    OCCUPANCY_GRID,
    VOXEL_GRID,
    VOXEL_GRID_INFO,
)

_Make: TypeAlias = Callable[[Completion, str, NodeParameters], Any]


class PlannerOutputs:
    """Publishers of the dense grid, the map of the ground, obstacles, clearing rays, free space and markers.

    Args:
        create: Creates a publisher.
        grid: Grid of the voxels, described once in `~/voxel_grid/info`.
        grid_from_camera: Pose of the camera's optical frame in it.
        class_names: Names of the classes, by label.
        counters: Warn of what cannot be published.
        markers: Publish `~/markers` as well.
    """

    def __init__(
        self,
        create: Create,
        grid: VoxelGrid,
        grid_from_camera: RigidTransform,
        class_names: tuple[str, ...],
        counters: FrameCounters,
        *,
        markers: bool,
    ) -> None:
        self._class_names = class_names
        self._counters = counters
        self._rays: ClearingRays | None = None
        self._rays_made_for: tuple[Camera, float, int] | None = None
        self._ground: GroundProjection | None = None
        self._ground_made_for: tuple[float, ...] | None = None
        self._made: dict[str, tuple[Any, _Make]] = {
            VOXEL_GRID: (create(Image, VOXEL_GRID), self._voxel_grid),
            OCCUPANCY_GRID: (create(OccupancyGrid, OCCUPANCY_GRID, LATCHED_QOS), self._occupancy_grid),
            OBSTACLES: (create(PointCloud2, OBSTACLES), self._obstacles),
            CLEARING: (create(PointCloud2, CLEARING), self._clearing),
            FREE_SPACE: (create(PointCloud2, FREE_SPACE), self._free_space),
        }
        if markers:
            self._made[MARKERS] = create(Marker, MARKERS), self._markers
        self._info = create(String, VOXEL_GRID_INFO, LATCHED_QOS)
        self._info.publish(voxel_grid_info_message(grid, grid_from_camera))

    def wanted(self) -> bool:
        """Whether anybody subscribed to any of them but the description of the grid."""
        return any(subscribed(publisher) for publisher, _ in self._made.values())

    def publishers(self) -> list[Any]:
        """All of them but that of the description of the grid."""
        return [publisher for publisher, _ in self._made.values()]

    def publish(self, completion: Completion, frame_id: str, parameters: NodeParameters) -> None:
        """Publish what somebody subscribed to, with the stamp of the image.

        Args:
            completion: What the image became.
            frame_id: Frame of the image.
            parameters: Those of when it arrived.
        """
        for topic, (publisher, make) in self._made.items():
            if subscribed(publisher):
                try:
                    publisher.publish(make(completion, frame_id, parameters))
                except GridError as error:
                    self._counters.warn(topic, f"{topic} is not published: {error}")

    def _voxel_grid(self, completion: Completion, frame_id: str, parameters: NodeParameters) -> Any:
        return voxel_grid_message(completion.voxels, frame_id)

    def _occupancy_grid(self, completion: Completion, frame_id: str, parameters: NodeParameters) -> Any:
        voxels = completion.voxels
        upright_from_camera = camera_pose(parameters)
        wanted = (
            *upright_from_camera.matrix.ravel(),
            *voxels.grid_from_camera.matrix.ravel(),
            parameters.obstacle_min_height,
            parameters.obstacle_max_height,
        )
        if self._ground is None or wanted != self._ground_made_for or self._ground.grid != voxels.grid:
            upright_from_grid = upright_from_camera @ voxels.grid_from_camera.inverse()
            band = parameters.obstacle_min_height, parameters.obstacle_max_height
            self._ground, self._ground_made_for = GroundProjection(voxels.grid, upright_from_grid, *band), wanted
        ground = self._ground(
            voxels,
            ignored=self._ignored(parameters),
            inferred_is_free=parameters.inferred_is_free,
            graded=parameters.occupancy_values == "probability",
        )
        if parameters.base_frame:
            return occupancy_grid_message(ground, voxels.stamp_ns, parameters.base_frame)
        return occupancy_grid_message(ground, voxels.stamp_ns, frame_id, upright_from_camera.inverse())

    def _obstacles(self, completion: Completion, frame_id: str, parameters: NodeParameters) -> Any:
        points = obstacle_points(completion.voxels, ignored=self._ignored(parameters))
        return points_message(points, completion.voxels.stamp_ns, frame_id)

    def _clearing(self, completion: Completion, frame_id: str, parameters: NodeParameters) -> Any:
        voxels = completion.voxels
        wanted = completion.depth_camera, parameters.clearing_blind_zone, parameters.threads
        if self._rays is None or wanted != self._rays_made_for:
            self._rays_made_for = wanted
            self._rays = ClearingRays(
                voxels.grid,
                voxels.grid_from_camera,
                completion.depth_camera,
                blind_zone=parameters.clearing_blind_zone,
                threads=parameters.threads or None,
            )
        return points_message(self._rays(voxels), voxels.stamp_ns, frame_id)

    def _free_space(self, completion: Completion, frame_id: str, parameters: NodeParameters) -> Any:
        points = seen_free_cubes(completion.voxels, parameters.free_space_edge)
        return points_message(points, completion.voxels.stamp_ns, frame_id)

    def _markers(self, completion: Completion, frame_id: str, parameters: NodeParameters) -> Any:
        marker = voxels_marker(completion.voxels, frame_id, parameters.marker_limit)
        if marker.text:
            self._counters.warn(MARKERS, f"{MARKERS}: {marker.text}, marker_limit")
        return marker

    def _ignored(self, parameters: NodeParameters) -> list[int]:
        return ignored_labels(parameters.ignored_classes, self._class_names, where="parameter ignored_classes")


def camera_pose(parameters: NodeParameters) -> RigidTransform:
    """Pose of the camera's optical frame in the upright frame of the map.

    That is `base_frame`. Without one it is the frame on the ground below the camera that looks where the camera looks:
    place and heading then say nothing.
    """
    roll, pitch, yaw = (
        math.radians(angle) for angle in (parameters.camera_roll, parameters.camera_pitch, parameters.camera_yaw)
    )
    x, y = parameters.camera_x, parameters.camera_y
    if not parameters.base_frame:
        x = y = yaw = 0.0
    turn = _about(2, yaw) @ _about(1, pitch) @ _about(0, roll)
    forward = RigidTransform(turn, np.array([x, y, parameters.camera_height]))
    return forward @ OPTICAL_FROM_FORWARD.inverse()


def _about(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation [3, 3] about an axis by the right-hand rule."""
    cos, sin = math.cos(angle), math.sin(angle)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[first, first], turn[first, second] = cos, -sin
    turn[second, first], turn[second, second] = sin, cos
    return turn
