"""What a replay publishes: images and their calibration, and further recorded topics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from scene_completion_ros.bags.reader import BagMessage
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros import messages
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE

QUEUE = 1000  # reliable, so nothing gets lost on the way


@dataclass(frozen=True)
class Source:
    """What is played: images, and the calibration that goes with them."""

    topic: str
    compressed: bool  # whether it holds CompressedImage
    camera: Camera
    camera_info: Any  # the bag's own message, None to make one from the camera
    also: Mapping[str, str]  # further recorded topics -> message type


class InputPublishers:
    """Publishers of a replay, in its node's namespace. Raises SceneCompletionError if a message package is missing."""

    def __init__(self, node: Any, source: Source) -> None:
        self._source, self._node = source, node
        queue = QoSProfile(depth=QUEUE)
        image_type, image_topic = (CompressedImage, f"{IMAGE}/compressed") if source.compressed else (Image, IMAGE)
        self._images = node.create_publisher(image_type, image_topic, queue)
        self._camera_infos = node.create_publisher(CameraInfo, CAMERA_INFO, queue)
        latched = QoSProfile(depth=QUEUE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._others = {
            topic: node.create_publisher(
                messages.message_class(kind, topic), topic, latched if topic.endswith("tf_static") else queue
            )
            for topic, kind in source.also.items()
        }

    @property
    def heard(self) -> bool:
        """Whether somebody subscribed to both image and CameraInfo."""
        return bool(self._images.get_subscription_count() and self._camera_infos.get_subscription_count())

    def others_heard_by(self, node: str) -> bool:
        """Whether a node hears all further topics: reliably, once it saw the publishers (`AdaptiveSubscription`)."""
        for publisher in self._others.values():
            subscribed = [
                info
                for info in self._node.get_subscriptions_info_by_topic(publisher.topic_name)
                if f"{info.node_namespace.rstrip('/')}/{info.node_name}" == node
            ]
            if any(info.qos_profile.reliability != ReliabilityPolicy.RELIABLE for info in subscribed):
                return False
            if publisher.get_subscription_count() < len(subscribed):
                return False
        return True

    def image(self, message: Any) -> None:
        """Publish an image: a message, or one that is serialised (CDR)."""
        self._images.publish(message)

    def camera_info(self, stamp_ns: int, frame_id: str) -> None:
        """Publish the calibration with a stamp; the recorded one keeps its frame."""
        if self._source.camera_info is None:
            message = messages.camera_info_message(self._source.camera, stamp_ns, frame_id)
        else:
            message = messages.copied_camera_info(self._source.camera_info, stamp_ns)
        self._camera_infos.publish(message)

    def other(self, recorded: BagMessage) -> None:
        """Publish a message of a further topic as it was recorded."""
        self._others[recorded.topic].publish(recorded.cdr)
