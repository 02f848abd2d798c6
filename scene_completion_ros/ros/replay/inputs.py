"""What a replay publishes: images and their calibration, further recorded topics, and the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from scene_completion_ros.bags.reader import BagMessage
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros import messages
from scene_completion_ros.ros.messages import stamp_message
from scene_completion_ros.ros.replay.playback import CLOCK, InputTopics, Playback

QUEUE = 1000  # reliable, so nothing gets lost on the way
MOST_TICKS = 1000  # of the clock, made up for at once; more than a pause of a recording deserves
CLOCK_QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


@dataclass(frozen=True)
class Source:
    """What is played: images, and the calibration that goes with them.

    Attributes:
        compressed: Whether it holds CompressedImage.
        camera_info: The bag's own message, None to make one from the camera.
        also: Further recorded topics -> message type.
    """

    topic: str
    compressed: bool
    camera: Camera
    camera_info: Any
    also: Mapping[str, str]


class InputPublishers:
    """Publishers of a replay.

    Raises:
        SceneCompletionError: The message package of a further topic is not installed.
    """

    def __init__(self, node: Any, source: Source, names: InputTopics, playback: Playback) -> None:
        self._source = source
        self._node = node
        queue = QoSProfile(depth=QUEUE)
        image_type, image_topic = (CompressedImage, names.compressed) if source.compressed else (Image, names.image)
        self._images = node.create_publisher(image_type, image_topic, queue)
        self._camera_infos = node.create_publisher(CameraInfo, names.camera_info, queue)
        latched = QoSProfile(depth=QUEUE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._others = {
            topic: node.create_publisher(
                messages.message_class(kind, topic),
                playback.remappings.get(topic, topic),
                latched if topic.endswith("tf_static") else queue,
            )
            for topic, kind in source.also.items()
        }
        self.clock: RecordedClock | None = None
        if playback.clock_hz:
            ticks = playback.clock_hz / (playback.rate or 1.0)
            self.clock = RecordedClock(node, playback.remappings.get(CLOCK, CLOCK), ticks)
        self.topics = (self._images.topic_name, self._camera_infos.topic_name)

    @property
    def heard(self) -> bool:
        """Whether somebody subscribed to both image and CameraInfo."""
        return bool(self._images.get_subscription_count() and self._camera_infos.get_subscription_count())

    def others_heard_by(self, node: str) -> bool:
        """Whether a node loses nothing of the further topics that it subscribes to.

        It subscribes best effort, and reliably once it has seen that the publishers are: see `AdaptiveSubscription`.
        """
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


class RecordedClock:
    """Publishes the recorded time on /clock at a rate of ticks, for nodes with `use_sim_time`.

    Args:
        topic: Usually /clock.
        hz: Ticks a recorded second.
    """

    def __init__(self, node: Any, topic: str, hz: float) -> None:
        self._publisher = node.create_publisher(Clock, topic, CLOCK_QOS)
        self.period_ns = max(round(1e9 / hz), 1)
        self._last_ns: int | None = None

    def restart(self) -> None:
        """The recording starts again: the next time may lie before the last one."""
        self._last_ns = None

    def step_to(self, now_ns: int) -> None:
        """Publish all ticks before a time (at most `MOST_TICKS`), and the time itself.

        For lock step, in which nothing else makes the time pass.
        """
        if self._last_ns is not None:
            first_ns = max(self._last_ns, now_ns - MOST_TICKS * self.period_ns) + self.period_ns
            for tick_ns in range(first_ns, now_ns, self.period_ns):
                self._publish(tick_ns)
        if now_ns != self._last_ns:
            self._publish(now_ns)

    def show(self, now_ns: int) -> None:
        """Publish the time if a tick has become due; ticks that were missed are not made up for."""
        if self._last_ns is None or now_ns - self._last_ns >= self.period_ns:
            self._publish(now_ns)

    def _publish(self, time_ns: int) -> None:
        self._publisher.publish(Clock(clock=stamp_message(time_ns)))
        self._last_ns = time_ns
