"""What a sensor of depth publishes: depth images or clouds, one of which goes with an image."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from sensor_msgs.msg import Image, PointCloud2

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.frame import DepthReading, Frame, NotYetError
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.messages import stamp_nanoseconds
from scene_completion_ros.ros.subscriptions import LOOK_PERIOD_S, AdaptiveSubscription
from scene_completion_ros.ros.waiting import StampMatch

TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/PointCloud2": PointCloud2}
KEPT = 30  # messages: a replay runs half a second ahead
LARGEST_BYTES = 64_000_000  # of one message

# Gives camera_from_sensor of a frame and the sensor's frame. Raises NotYetError where it is missing.
CameraFromSensor = Callable[[Frame, str], RigidTransform]


class DepthInput:
    """Subscribes to the topic of a sensor, whose publishers say the type, and finds the message of an image's time.

    A cloud goes with the images of every camera, a depth image with those in whose frame it is. Callbacks run in the
    executor's thread, and read no data.
    """

    def __init__(
        self,
        node: Any,
        topic: str,
        counters: FrameCounters,
        on_arrival: Callable[[], None],  # called after each message
        resources: ExitStack,
    ) -> None:
        self._node, self._topic, self._resources = node, node.resolve_topic_name(topic), resources
        self._counters, self._on_arrival = counters, on_arrival
        cure = "Compare the stamps of both (ros2 topic echo --field header), and see sync.tolerance"
        self._match = StampMatch(self._topic, "messages of depth", cure, KEPT)
        self._missed_ns: int | None = None  # stamp of the last image that waited in vain
        self._unusable = NotYetError("nobody publishes it", where=self._topic, may_come=False)
        self._subscribed, self._told = False, ""
        self._timer = dds.steady_timer(node, LOOK_PERIOD_S, self._look_for_publishers, resources)
        self._look_for_publishers()

    def forget(self) -> None:
        """Time began anew."""
        self._match.forget()
        self._missed_ns = None

    def of(self, frame: Frame, bundle: StudentBundle, camera_from: CameraFromSensor, *, final: bool) -> DepthReading:
        """What the sensor saw when a placed image was taken.

        Raises NotYetError where there is nothing, or a nearer message or the transform of its frame may come. `final`:
        the image waits no longer. An image that waited in vain is the last to wait, until the sensor has caught up.
        """
        if not bundle.takes_evidence:
            what = f"student {bundle.name} makes nothing of what sensors of depth see"
            if self._told != bundle.name:
                self._told = bundle.name
                self._node.get_logger().warning(f"depth.from is topic, but {what}")
            raise NotYetError(what, may_come=False)
        if not self._subscribed:
            raise self._unusable.with_traceback(None)
        stamp_ns, tolerance_ns = frame.stamp_ns, round(1e9 * frame.parameters.sync_tolerance)
        settled = self._match.settled(stamp_ns, tolerance_ns)
        if final and not settled and self._match.behind(stamp_ns):
            self._missed_ns = stamp_ns
        final = final or settled or self._missed_ns is not None
        message = self._match.nearest(stamp_ns, tolerance_ns, final=final)
        sensor, camera = str(message.header.frame_id), frame.frame_id
        if isinstance(message, Image) and sensor.strip("/") != camera:
            raise NotYetError(
                f"depth images of frame {sensor!r} do not fit images of frame {camera!r}",
                where=self._topic,
                cure="Have the driver align depth to colour, or name its cloud, or one of depth_image_proc",
                may_come=False,
            )
        age_ns = stamp_ns - stamp_nanoseconds(message.header.stamp)
        reading = DepthReading(message, age_ns, camera_from(frame, sensor))
        self._match.forget(stamp_ns - 2 * tolerance_ns)  # another camera may have been a little earlier
        return reading

    def _look_for_publishers(self) -> None:
        """Subscribe once a publisher says of which type the topic is."""
        found = {info.topic_type for info in self._node.get_publishers_info_by_topic(self._topic)}
        usable = sorted(found & TYPES.keys())
        if usable:
            self._subscribed = True
            self._timer.cancel()
            AdaptiveSubscription(
                self._node,
                TYPES[usable[0]],
                self._topic,
                lambda message, _: self._on_message(message),
                depth=KEPT,
                resources=self._resources,
            )
        elif found:
            self._unusable = NotYetError(
                f"it is of type {', '.join(sorted(found))}, not {' or '.join(TYPES)}",
                where=self._topic,
                cure="Have compressed depth decompressed: ros2 run image_transport republish",
                may_come=False,
            )
            self._counters.warn("depth: type", f"no depth: {self._unusable}")

    def _on_message(self, message: Any) -> None:
        if len(message.data) > LARGEST_BYTES:
            what = f"a message of {len(message.data)} bytes, above {LARGEST_BYTES}"
            self._counters.warn("depth: size", f"{self._topic}: the node leaves out {what}; reduce its resolution")
            return
        self._match.add(message)
        if self._missed_ns is not None and not self._match.behind(self._missed_ns):
            self._missed_ns = None
        self._on_arrival()
