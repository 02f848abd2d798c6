"""What the node publishes for planners and for looking at, made of the voxels only where somebody subscribed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import Marker

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.clearing_kernel import ClearingRays
from scene_completion_ros.mapping.ground_map import GroundProjection, ignored_labels
from scene_completion_ros.mapping.points import obstacle_points, seen_free_cubes
from scene_completion_ros.ros.completion.scene import Scene, View
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.outputs.output_messages import (
    occupancy_grid_message,
    points_message,
    voxel_grid_info_message,
    voxel_grid_message,
    voxels_marker,
)
from scene_completion_ros.ros.outputs.publishing import LATCHED_QOS, Create, subscribed
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.topics import (
    CLEARING,
    FREE_SPACE,
    MARKERS,
    OBSTACLES,
    OCCUPANCY_GRID,
    VOXEL_GRID,
    VOXEL_GRID_INFO,
)

_Make: TypeAlias = Callable[[Scene, NodeParameters], list[Any]]


class PlannerOutputs:
    """Publishers of the dense grid, the map of the ground, obstacles, clearing rays, free space and markers.

    Args:
        create: Creates a publisher.
        grid: Grid of the voxels, described once in `~/voxel_grid/info`.
        grid_from_camera: Pose of the camera's optical frame in it; None where the grid is attached to another frame.
        class_names: Names of the classes, by label.
        counters: Warn of what cannot be published.
        markers: Publish `~/markers` as well.
    """

    def __init__(
        self,
        create: Create,
        grid: VoxelGrid,
        grid_from_camera: RigidTransform | None,
        class_names: tuple[str, ...],
        counters: FrameCounters,
        *,
        markers: bool,
    ) -> None:
        self._class_names = class_names
        self._counters = counters
        self._rays: dict[str, tuple[tuple[Camera, RigidTransform, float, int], ClearingRays]] = {}
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

    def publish(self, scene: Scene, parameters: NodeParameters) -> None:
        """Publish what somebody subscribed to, with the stamp of the image.

        Args:
            scene: What the image became.
            parameters: Those of when it arrived.
        """
        for topic, (publisher, make) in self._made.items():
            if subscribed(publisher):
                try:
                    for message in make(scene, parameters):
                        publisher.publish(message)
                except GridError as error:
                    self._counters.warn(topic, f"{topic} is not published: {error}")

    def _voxel_grid(self, scene: Scene, parameters: NodeParameters) -> list[Any]:
        return [voxel_grid_message(scene.voxels, scene.placement.frame_id)]

    def _occupancy_grid(self, scene: Scene, parameters: NodeParameters) -> list[Any]:
        voxels, placement = scene.voxels, scene.placement
        if placement.assumed_height is not None:
            self._counters.warn(
                "camera_height",
                f"{OCCUPANCY_GRID} lies {placement.assumed_height:g} m below the camera, the height of the cameras "
                "that the student was trained with, as nothing says how high this one is: set camera_height",
            )
        band = parameters.obstacle_min_height, parameters.obstacle_max_height
        wanted = (*placement.map_from_grid.matrix.ravel(), *band)
        if self._ground is None or wanted != self._ground_made_for or self._ground.grid != voxels.grid:
            self._ground, self._ground_made_for = GroundProjection(voxels.grid, placement.map_from_grid, *band), wanted
        ground = self._ground(
            voxels,
            ignored=self._ignored(parameters),
            inferred_is_free=parameters.inferred_is_free,
            graded=parameters.occupancy_values == "probability",
        )
        return [occupancy_grid_message(ground, voxels.stamp_ns, placement.map_frame_id, placement.frame_from_map)]

    def _obstacles(self, scene: Scene, parameters: NodeParameters) -> list[Any]:
        voxels, placement = scene.voxels, scene.placement
        points = obstacle_points(voxels, placement.frame_from_grid, ignored=self._ignored(parameters))
        return [points_message(points, voxels.stamp_ns, placement.frame_id)]

    def _clearing(self, scene: Scene, parameters: NodeParameters) -> list[Any]:
        """Rays of every camera in its own frame, whose origin readers take for that of the rays."""
        voxels = scene.clearing_voxels()
        return [
            points_message(self._rays_of(view, parameters)(voxels), view.completion.voxels.stamp_ns, view.frame_id)
            for view in scene.views
        ]

    def _rays_of(self, view: View, parameters: NodeParameters) -> ClearingRays:
        completion, blind_zone = view.completion, parameters.clearing_blind_zone
        grid_from_camera = completion.voxels.grid_from_camera
        wanted = completion.depth_camera, grid_from_camera, blind_zone, parameters.threads
        made_for, rays = self._rays.get(view.name, (None, None))
        if rays is None or wanted != made_for:
            rays = ClearingRays(
                completion.voxels.grid,
                grid_from_camera,
                completion.depth_camera,
                blind_zone=blind_zone,
                threads=parameters.threads or None,
            )
            self._rays[view.name] = wanted, rays
        return rays

    def _free_space(self, scene: Scene, parameters: NodeParameters) -> list[Any]:
        placement = scene.placement
        points = seen_free_cubes(scene.voxels, parameters.free_space_edge, placement.frame_from_grid)
        return [points_message(points, scene.voxels.stamp_ns, placement.frame_id)]

    def _markers(self, scene: Scene, parameters: NodeParameters) -> list[Any]:
        placement = scene.placement
        marker = voxels_marker(scene.voxels, placement.frame_id, parameters.marker_limit, placement.frame_from_grid)
        if marker.text:
            self._counters.warn(MARKERS, f"{MARKERS}: {marker.text}, marker_limit")
        return [marker]

    def _ignored(self, parameters: NodeParameters) -> list[int]:
        return ignored_labels(parameters.ignored_classes, self._class_names, where="parameter ignored_classes")
