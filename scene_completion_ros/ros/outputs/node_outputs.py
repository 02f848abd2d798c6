"""What the node publishes, as far as somebody subscribed to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Float64, String

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.ros.completion.scene import Scene
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.health.drop_notices import announce_drops
from scene_completion_ros.ros.messages import camera_info_message, depth_message, legend_message, voxels_message
from scene_completion_ros.ros.outputs.planner_outputs import PlannerOutputs
from scene_completion_ros.ros.outputs.publishing import BEST_EFFORT_QOS, LATCHED_QOS, creator, subscribed
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.topics import LEGEND, STAGES, VOXELS, depth_topics, stage_topic
from scene_completion_ros.voxels.cloud_kernel import compile_kernel


class Outputs:
    """The publishers of the node; the legend, which is that of the bundle, is published at once and latched.

    Args:
        node: The rclpy node to put them on.
        bundle: The student.
        grid: Grid of the voxels.
        grid_from_camera: Pose of the camera's optical frame in it; None where the grid is attached to another frame.
        counters: Warn of what cannot be published.
        resources: Closing it destroys the publishers.
        markers: Publish markers as well.
        best_effort: Offer results with best effort only.
        cameras: Names of several cameras, which have depth topics of their own; empty for the one.
    """

    def __init__(
        self,
        node: Any,
        bundle: StudentBundle,
        grid: VoxelGrid,
        grid_from_camera: RigidTransform | None,
        counters: FrameCounters,
        resources: ExitStack,
        *,
        markers: bool,
        best_effort: bool = False,
        cameras: Sequence[str] = (),
    ) -> None:
        create = creator(node, resources)
        create_result = creator(node, resources, BEST_EFFORT_QOS) if best_effort else create
        self._voxels = create_result(PointCloud2, VOXELS)
        self._cloud: PointCloud2 | None = None  # the last one; publishing has copied it
        self._depth: dict[str, tuple[Any, Any]] = {}
        for name in cameras or ("",):
            depth, camera_info = depth_topics(name)
            self._depth[name] = create_result(Image, depth), create_result(CameraInfo, camera_info)
        self._stage_times = {stage: create(Float64, stage_topic(stage)) for stage in STAGES}
        self._legend = create(String, LEGEND, LATCHED_QOS)
        self._legend.publish(legend_message(bundle.class_names, bundle.class_colours))
        announce_drops(create, counters, resources)
        self._planner = PlannerOutputs(
            create_result, grid, grid_from_camera, bundle.class_names, counters, markers=markers
        )

    def prepare(self) -> None:
        """Compile what publishing needs, so that the first result is as fast as any."""
        compile_kernel()

    def wanted(self) -> bool:
        """Whether anybody subscribed to what images become; processing times alone are no reason to complete one."""
        return self._planner.wanted() or any(
            map(subscribed, (self._voxels, *chain.from_iterable(self._depth.values())))
        )

    def subscribers(self) -> dict[str, int]:
        """Number of subscribers of each result, by topic."""
        made = (self._voxels, *chain.from_iterable(self._depth.values()), *self._planner.publishers())
        return {publisher.topic_name: int(publisher.get_subscription_count()) for publisher in made}

    def publish(self, scene: Scene, parameters: NodeParameters) -> None:
        """Publish voxels, depth and what planners take, with the stamp of their image.

        Args:
            scene: What the image became.
            parameters: Those of when it arrived.
        """
        if subscribed(self._voxels):
            placement = scene.placement
            threads = parameters.threads or None
            self._cloud = voxels_message(
                scene.voxels, placement.frame_id, placement.frame_from_grid, threads=threads, into=self._cloud
            )
            self._voxels.publish(self._cloud)
        for view in scene.views:
            completion, stamp_ns = view.completion, view.completion.voxels.stamp_ns
            depth, depth_camera_info = self._depth[view.name]
            if subscribed(depth):
                depth.publish(depth_message(completion.shown_depth, stamp_ns, view.frame_id))
            if subscribed(depth_camera_info):
                camera_info = camera_info_message(completion.depth_camera, stamp_ns, view.frame_id)
                depth_camera_info.publish(camera_info)
        self._planner.publish(scene, parameters)

    def publish_times(self, times_ms: Mapping[str, float]) -> None:
        """Publish the processing time of every stage, in milliseconds."""
        for stage, publisher in self._stage_times.items():
            if subscribed(publisher):
                publisher.publish(Float64(data=float(times_ms[stage])))
