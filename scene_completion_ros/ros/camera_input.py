"""Images and the calibration that goes with them, from the topics of one camera: here a frame begins its way."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from scene_completion_ros.errors import SceneCompletionError, in_words
from scene_completion_ros.geometry.camera_files import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.drop_reasons import DropReason, StampOrder
from scene_completion_ros.ros.declared_parameters import DeclaredParameters
from scene_completion_ros.ros.frame import Frame, NotYetError
from scene_completion_ros.ros.health.input_health import InputRecord
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.messages import LATCHED_QOS, stamp_nanoseconds
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.subscriptions import AdaptiveSubscription, noted_subscription
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE
from scene_completion_ros.ros.waiting import StampMatch, polled_room

SECOND_NS = 1_000_000_000
KEPT = 200  # CameraInfo messages: more than three seconds at 60 Hz


class CameraInput:
    """Subscribes to an image and its CameraInfo; lives as long as the node is active.

    Callbacks run in the executor's thread. They only hand an image, with the calibration and the parameters of that
    moment, on. A message that cannot be used is dropped, counted and warned about.

    Attributes:
        record: What arrived.
    """

    def __init__(
        self,
        node: Any,
        parameters: DeclaredParameters,
        name: str,  # name of the camera, before the names of its topics; empty where there is one camera only
        deliver: Callable[[Frame], None],
        # Called with calibration and parameters before an image needs them.
        prepare: Callable[[Camera, NodeParameters], None],
        restart: Callable[[], None],  # called when stamps jumped back, before the first image of the new time
        counters: FrameCounters,
        order: StampOrder,
        resources: ExitStack,
    ) -> None:
        self._node, self._parameters, self.name = node, parameters, name
        self._deliver, self._prepare_model, self._restart = deliver, prepare, restart
        self._counters, self._order, self._resources = counters, order, resources
        # The newest usable message, how it was read, and what for.
        self._camera_info: Any = None
        self._camera: Camera | None = None
        self._rectified = False
        self._prepared_for: tuple[Camera, NodeParameters] | None = None
        self._latched_subscription: Any = None
        self._subscribe_to_both(parameters.snapshot())
        cure = "If the camera publishes its CameraInfo only once, set sync.camera_info: latest"
        self._match = StampMatch(self._camera_info_topic, "CameraInfo messages", cure, KEPT)
        self._room = polled_room(node, self._admit, self._turn_away, self._refuse, resources)
        resources.callback(self.give_up, DropReason.DEACTIVATED)

    def check(self, parameters: NodeParameters) -> None:
        """Raise CameraError where the calibration at hand has nothing to offer for these parameters."""
        if self._camera_info is not None:
            self._read_camera(self._camera_info, parameters)

    def _subscribe_to_both(self, parameters: NodeParameters) -> None:
        depth = qos_profile_sensor_data.depth
        prefix = f"{self.name}/" if self.name else ""
        # As image_transport does: the base name is remapped, the transport is appended to the result.
        topic, image_type = self._node.resolve_topic_name(f"{prefix}{IMAGE}"), Image
        if parameters.image_transport == "compressed":
            topic, image_type = f"{topic}/compressed", CompressedImage
        self._image_topic = topic
        self._camera_info_topic = self._node.resolve_topic_name(f"{prefix}{CAMERA_INFO}")
        self.record = InputRecord(
            topic,
            f"sensor_msgs/msg/{image_type.__name__}",
            self._camera_info_topic,
            reliable=parameters.image_qos == "reliable",
            since_s=time.perf_counter(),
        )
        if parameters.image_qos == "auto":
            AdaptiveSubscription(
                self._node,
                image_type,
                topic,
                lambda message, _: self._on_image(message),
                depth=depth,
                resources=self._resources,
                subscribe=self._subscribe_as_offered,
            )
        else:
            reliable = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
            image_qos = reliable if parameters.image_qos == "reliable" else qos_profile_sensor_data
            self._subscribe(image_type, topic, self._on_image, image_qos)
        self._subscribe(CameraInfo, self._camera_info_topic, self._on_camera_info, qos_profile_sensor_data)
        self._node.get_logger().info(
            f"waiting for images on {topic} ({parameters.image_qos}) and CameraInfo on {self._camera_info_topic}"
        )

    def _subscribe_as_offered(self, message_type: Any, topic: str, callback: Any, qos: QoSProfile) -> Any:
        self.record.reliable = qos.reliability == ReliabilityPolicy.RELIABLE
        self.record.incompatible.pop(topic, None)  # that was with the subscription before
        return noted_subscription(self._node, message_type, topic, callback, qos, self.record)

    def _subscribe(self, message_type: Any, topic: str, callback: Any, qos: QoSProfile) -> Any:
        subscription = noted_subscription(self._node, message_type, topic, callback, qos, self.record)
        self._resources.callback(self._node.destroy_subscription, subscription)
        return subscription

    def _read_camera(self, camera_info: Any, parameters: NodeParameters) -> Camera:
        return camera_from_camera_info(camera_info, rectified=parameters.image_rectified, where=self._camera_info_topic)

    def give_up(self, reason: DropReason) -> None:
        """Count images that wait for their CameraInfo as dropped."""
        for frame in self._room.empty():
            self._counters.drop(reason, header=frame.header)

    def _on_camera_info(self, message: Any) -> None:
        self.record.camera_info_arrived(message, time.perf_counter())
        parameters = self._parameters.snapshot()
        try:
            camera = self._read_camera(message, parameters)
        except SceneCompletionError as error:
            self._counters.drop(DropReason.BAD_CAMERA_INFO, str(error))
            return
        synchronised = parameters.sync_camera_info != "latest"
        before = self._camera if parameters.image_rectified == self._rectified else None
        if before is not None and not synchronised and not before.agrees(camera):
            self._counters.warn("new calibration", f"{self._camera_info_topic}: the calibration has changed")
        self._camera_info, self._camera, self._rectified = message, camera, parameters.image_rectified
        self._match.add(message)
        if not synchronised or self._prepared_for is None:
            self._prepare(camera, parameters)
        self._room.look()

    def _camera_for(self, parameters: NodeParameters) -> Camera | None:
        """The newest usable camera; the CameraInfo is read anew where it is now to be read in another way."""
        if self._camera_info is not None and parameters.image_rectified != self._rectified:
            self._camera = self._read_camera(self._camera_info, parameters)  # usable: see `check`
            self._rectified = parameters.image_rectified
        return self._camera

    def _prepare(self, camera: Camera, parameters: NodeParameters) -> None:
        self.record.camera = camera
        before = self._prepared_for
        if before is None or before[1] != parameters or not before[0].agrees(camera):
            self._prepared_for = camera, parameters
            self._prepare_model(camera, parameters)

    def _look_for_latched_camera_info(self) -> None:
        """Subscribe a second time where the CameraInfo was published once and latched.

        Only a transient-local reader receives that one. It never matches a volatile publisher, and makes every such
        publisher log a warning; therefore not until it is needed.
        """
        publishers = self._node.get_publishers_info_by_topic(self._camera_info_topic)
        latched = (info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in publishers)
        if self._latched_subscription is None and any(latched):
            # Not noted: that volatile publishers on the same topic do not match this one is no fault.
            self._latched_subscription = self._node.create_subscription(
                CameraInfo, self._camera_info_topic, self._on_camera_info, LATCHED_QOS
            )
            self._resources.callback(self._node.destroy_subscription, self._latched_subscription)

    def _on_image(self, message: Any) -> None:
        arrived_s = time.perf_counter()
        self._counters.count("received")
        try:
            self._receive(message, arrived_s)
        except Exception as error:  # of a message that nobody thought of: it must not end the node
            why = f"{self._image_topic}: {in_words(error)}"
            self._counters.drop(DropReason.INTERNAL_ERROR, why, header=message.header)

    def _receive(self, message: Any, arrived_s: float) -> None:
        self.record.image_arrived(message, arrived_s)
        nanoseconds = int(message.header.stamp.nanosec)
        if nanoseconds >= SECOND_NS:  # which would come out as another stamp, if it is one at all
            why = f"{self._image_topic}: a stamp with {nanoseconds} nanoseconds to its second; check the driver"
            self._counters.drop(DropReason.BAD_IMAGE, why, header=message.header)
            return
        parameters = self._parameters.snapshot()
        camera = self._camera_for(parameters)
        if camera is None:
            self._look_for_latched_camera_info()
        synchronised = parameters.sync_camera_info != "latest"
        if camera is None and not synchronised:
            self._counters.drop(DropReason.NO_CAMERA_INFO, self._no_camera_info, header=message.header)
            return
        stamp_ns = stamp_nanoseconds(message.header.stamp)
        if not self._is_in_order(message.header, stamp_ns):
            return
        frame = Frame(self.name, self._image_topic, message, stamp_ns, arrived_s, parameters)
        if synchronised:
            self._room.enter(frame, parameters.sync_timeout)
        elif camera is not None:
            self._pass_on(frame, camera)

    @property
    def _no_camera_info(self) -> str:
        return f"no usable CameraInfo on {self._camera_info_topic} yet; check the topic and its remapping"

    def _is_in_order(self, header: Any, stamp_ns: int) -> bool:
        arrival, behind_ns = self._order.arrived(stamp_ns), self._order.behind_ns
        if arrival == "late":
            self._counters.drop(
                DropReason.WENT_BACK,
                f"{self._image_topic}: stamp {stamp_ns} ns is {behind_ns / 1e6:.1f} ms before the last one",
                header=header,
            )
            return False
        if arrival == "restarted":
            self._counters.warn("clock jump", f"stamps jumped back by {behind_ns / 1e9:.1f} s: a restarted recording?")
            self._restart()
        return True

    def _admit(self, frame: Frame) -> None:
        self._pass_on(frame, self._matching_camera(frame, final=False))

    def _turn_away(self, frame: Frame, error: NotYetError) -> None:
        try:
            self._pass_on(frame, self._matching_camera(frame, final=True))
        except NotYetError as missing:
            if self._camera is None:
                self._counters.drop(DropReason.NO_CAMERA_INFO, self._no_camera_info, header=frame.header)
            else:
                self._counters.drop(DropReason.NO_MATCHING_CAMERA_INFO, str(missing), header=frame.header)

    def _refuse(self, frame: Frame) -> None:
        why = f"{self._image_topic}: too many images wait for their CameraInfo already"
        reason = DropReason.NO_CAMERA_INFO if self._camera is None else DropReason.NO_MATCHING_CAMERA_INFO
        self._counters.drop(reason, why, header=frame.header)

    def _matching_camera(self, frame: Frame, *, final: bool) -> Camera:
        parameters = frame.parameters
        if parameters.sync_camera_info == "exact":
            message = self._match.exact(frame.stamp_ns)
        else:
            tolerance_ns = round(1e9 * parameters.sync_tolerance)
            message = self._match.nearest(frame.stamp_ns, tolerance_ns, final=final)
        try:
            return self._read_camera(message, parameters)
        except SceneCompletionError as error:  # `image.rectified` has been changed since it came
            raise NotYetError(error.what, where=error.where, cure=error.cure, may_come=False) from None

    def _pass_on(self, frame: Frame, camera: Camera) -> None:
        self._prepare(camera, frame.parameters)
        frame.camera = camera
        self._deliver(frame)
