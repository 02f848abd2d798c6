"""What the node publishes, as far as somebody subscribed to it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Float64, String

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.ros.messages import camera_info_message, depth_message, legend_message, voxels_message
from scene_completion_ros.ros.topics import DEPTH, DEPTH_CAMERA_INFO, LEGEND, STAGES, VOXELS, stage_topic

OUTPUT_DEPTH = 5  # messages kept for slow reliable readers
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """The publishers of the node; the legend, which is that of the bundle, is published at once and latched.

    Args:
        node: The rclpy node to put them on.
        bundle: The student.
        resources: Closing it destroys the publishers.
    """

    def __init__(self, node: Any, bundle: StudentBundle, resources: ExitStack) -> None:
        def create(message_type: Any, topic: str, qos: QoSProfile | int = OUTPUT_DEPTH) -> Any:
            publisher = node.create_publisher(message_type, topic, qos)
            resources.callback(node.destroy_publisher, publisher)
            return publisher

        self._voxels = create(PointCloud2, VOXELS)
        self._depth = create(Image, DEPTH)
        self._depth_camera_info = create(CameraInfo, DEPTH_CAMERA_INFO)
        self._stage_times = {stage: create(Float64, stage_topic(stage)) for stage in STAGES}
        self._legend = create(String, LEGEND, LATCHED_QOS)
        self._legend.publish(legend_message(bundle.class_names, bundle.class_colours))

    def wanted(self) -> bool:
        """Whether anybody subscribed to what images become; processing times alone are no reason to complete one."""
        return any(map(_subscribed, (self._voxels, self._depth, self._depth_camera_info)))

    def publish(self, completion: Completion, frame_id: str) -> None:
        """Publish voxels and depth with the stamp of their image.

        Args:
            completion: What the image became.
            frame_id: Frame of the image.
        """
        voxels = completion.voxels
        if _subscribed(self._voxels):
            self._voxels.publish(voxels_message(voxels, frame_id))
        if _subscribed(self._depth):
            self._depth.publish(depth_message(completion.shown_depth, voxels.stamp_ns, frame_id))
        if _subscribed(self._depth_camera_info):
            self._depth_camera_info.publish(camera_info_message(completion.depth_camera, voxels.stamp_ns, frame_id))

    def publish_times(self, times_ms: Mapping[str, float]) -> None:
        """Publish the processing time of every stage, in milliseconds."""
        for stage, publisher in self._stage_times.items():
            if _subscribed(publisher):
                publisher.publish(Float64(data=float(times_ms[stage])))


def _subscribed(publisher: Any) -> bool:
    return bool(publisher.get_subscription_count())
