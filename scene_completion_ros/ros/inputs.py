"""The inputs of the active node: images with their calibration, depth and transforms, for the inference thread."""

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from scene_completion_ros.errors import SceneCompletionError, in_words
from scene_completion_ros.geometry.camera_info import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.messages.drop_reasons import DropReason, StampOrder
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.declared_parameters import DeclaredParameters
from scene_completion_ros.ros.frame import DepthReading, Frame, NotYetError, PoseToCome
from scene_completion_ros.ros.health.diagnostics import InputRecord
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.inference_thread import InferenceThread
from scene_completion_ros.ros.messages import LATCHED_QOS, stamp_nanoseconds
from scene_completion_ros.ros.parameters import NodeParameters, names_in
from scene_completion_ros.ros.placements import Placements, make_transform_source
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE
from scene_completion_ros.ros.waiting import (
    PUBLISHERS_PERIOD_S,
    READINGS_KEPT,
    AdaptiveSubscription,
    ImageSets,
    Poll,
    StampMatch,
    noted_subscription,
    polled_room,
)

SECOND_NS = 1_000_000_000


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
        self._heard_latched = False
        at_start = parameters.snapshot()
        prefix = f"{name}/" if name else ""
        # As image_transport does: the base name is remapped, the transport is appended to the result.
        topic, image_type = self._node.resolve_topic_name(f"{prefix}{IMAGE}"), Image
        if at_start.image_transport == "compressed":
            topic, image_type = f"{topic}/compressed", CompressedImage
        self._image_topic = topic
        self._camera_info_topic = self._node.resolve_topic_name(f"{prefix}{CAMERA_INFO}")
        self.record = InputRecord(
            topic,
            f"sensor_msgs/msg/{image_type.__name__}",
            self._camera_info_topic,
            reliable=at_start.image_qos == "reliable",
            since_s=time.perf_counter(),
        )
        reliable = QoSProfile(depth=qos_profile_sensor_data.depth, reliability=ReliabilityPolicy.RELIABLE)
        image_qos = reliable if at_start.image_qos == "reliable" else qos_profile_sensor_data
        images = noted_subscription(self._node, image_type, topic, self._on_image, image_qos, self.record)
        self._resources.callback(self._node.destroy_subscription, images)
        self._subscribe_to_camera_info(qos_profile_sensor_data)
        self._node.get_logger().info(
            f"waiting for images on {topic} ({at_start.image_qos}) and CameraInfo on {self._camera_info_topic}"
        )

    def check(self, parameters: NodeParameters) -> None:
        """Raise CameraError where the calibration at hand has nothing to offer for these parameters."""
        if self._camera_info is not None:
            self._read_camera(self._camera_info, parameters)

    def _subscribe_to_camera_info(self, qos: QoSProfile) -> None:
        subscription = self._node.create_subscription(CameraInfo, self._camera_info_topic, self._on_camera_info, qos)
        self._resources.callback(self._node.destroy_subscription, subscription)

    def _read_camera(self, camera_info: Any, parameters: NodeParameters) -> Camera:
        return camera_from_camera_info(camera_info, rectified=parameters.image_rectified, where=self._camera_info_topic)

    def _on_camera_info(self, message: Any) -> None:
        self.record.camera_info_arrived(message, time.perf_counter())
        parameters = self._parameters.snapshot()
        try:
            camera = self._read_camera(message, parameters)
        except SceneCompletionError as error:
            self._counters.drop(DropReason.BAD_CAMERA_INFO, str(error))
            return
        before = self._camera if parameters.image_rectified == self._rectified else None
        if before is not None and not before.agrees(camera):
            self._counters.warn("new calibration", f"{self._camera_info_topic}: the calibration has changed")
        self._camera_info, self._camera, self._rectified = message, camera, parameters.image_rectified
        self._prepare(camera, parameters)

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
        if not self._heard_latched and any(latched):
            self._heard_latched = True
            self._subscribe_to_camera_info(LATCHED_QOS)

    def _on_image(self, message: Any) -> None:
        arrived_s = time.perf_counter()
        self._counters.count("received")
        try:
            self._receive(message, arrived_s)
        except Exception as error:  # an unforeseen one: it must not end the node
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
            why = f"no usable CameraInfo on {self._camera_info_topic} yet; check the topic and its remapping"
            self._counters.drop(DropReason.NO_CAMERA_INFO, why, header=message.header)
            return
        stamp_ns = stamp_nanoseconds(message.header.stamp)
        if not self._is_in_order(message.header, stamp_ns):
            return
        self._prepare(camera, parameters)
        frame = Frame(self.name, self._image_topic, message, stamp_ns, arrived_s, parameters)
        frame.camera = camera
        self._deliver(frame)

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


TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/PointCloud2": PointCloud2}
LARGEST_BYTES = 64_000_000  # of one message

# Gives camera_from_sensor of a frame and the sensor's frame. Raises NotYetError where it is missing.
CameraFromSensor = Callable[[Frame, str], RigidTransform]


class DepthInput:
    """Subscribes to the topic of a depth sensor, of its publishers' type, and finds the message of an image's time.

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
        self._match = StampMatch(self._topic)
        self._missed_ns: int | None = None  # stamp of the last image that waited in vain
        self._unusable = NotYetError("it has no publisher", where=self._topic, may_come=False)
        self._subscribed, self._warned_of = False, ""
        self._timer = dds.steady_timer(node, PUBLISHERS_PERIOD_S, self._look_for_publishers, resources)
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
            if self._warned_of != bundle.name:
                self._warned_of = bundle.name
                self._node.get_logger().warning(f"depth.topic is set, but {what}")
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
        """Subscribe once a publisher gives the type."""
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
                depth=READINGS_KEPT,
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


@dataclass(frozen=True, eq=False)
class _WantedPose:
    frame: Frame
    pose: PoseToCome = field(default_factory=Future)


class Inputs:
    """Subscribes to images, CameraInfo and transforms as long as the node is active.

    All of it runs in the executor's thread, and nothing there blocks. An image whose transforms are not there yet waits
    in a queue while the inference thread goes on with what it has. Of several cameras, images of one moment are brought
    together first; one whose transforms do not come does not keep the others back. Where time goes back (stamps of
    images or the clock, in a recording that begins anew), whatever is remembered of the time before is forgotten.
    Raises SceneCompletionError where the source of transforms cannot be had.
    """

    def __init__(
        self,
        node: Any,
        parameters: DeclaredParameters,
        thread: InferenceThread,
        counters: FrameCounters,
        orders: dict[str, StampOrder],  # stamps of the images so far, by camera
        grid_from_camera: RigidTransform,  # pose of the camera's optical frame in a grid that is attached to it
        resources: ExitStack,
    ) -> None:
        at_start = parameters.snapshot()
        self._thread, self._counters, self._orders = thread, counters, orders
        self._room = polled_room(node, self._admit, self._turn_away, self._refuse, resources)
        resources.callback(self.give_up, DropReason.DEACTIVATED)
        self._poses = polled_room(node, self._find_pose, _without_pose, _refuse_pose, resources)
        self._names = names_in(at_start.cameras)
        self._sets: ImageSets[Frame] = ImageSets(
            self._names,
            self._on_set,
            lambda frame: counters.drop(DropReason.NOT_TOGETHER, header=frame.header),
            on_waiting=lambda: self._poll_sets.start(),
        )
        self._poll_sets = Poll(node, self._sets.look, resources)
        on_bad_transform = functools.partial(counters.drop, DropReason.BAD_TRANSFORM)
        self._source = make_transform_source(node, at_start, self._look, on_bad_transform, resources)
        self._placements = Placements(self._source, grid_from_camera, thread.student.bundle.height_above_ground)
        self._depth: DepthInput | None = None
        if at_start.depth_topic:
            self._depth = DepthInput(node, at_start.depth_topic, counters, self._look, resources)
        # Of the last images that were handed on: stamp, and when they arrived (`time.perf_counter`).
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        jumps = node.get_clock().create_jump_callback(backward, post_callback=self._on_clock_jump)
        resources.callback(jumps.unregister)
        self.cameras = [
            CameraInput(
                node,
                parameters,
                name,
                self._on_frame,
                functools.partial(self._prepare, name),
                self.restart,
                counters,
                orders.setdefault(name, StampOrder()),
                resources,
            )
            for name in self._names or ("",)
        ]

    def check(self, parameters: NodeParameters) -> None:
        """Raise CameraError where the calibration at hand has nothing to offer for these parameters."""
        for camera in self.cameras:
            camera.check(parameters)

    @property
    def records(self) -> dict[str, InputRecord]:
        """What arrived, by the name of the camera."""
        return {camera.name: camera.record for camera in self.cameras}

    def give_up(self, reason: DropReason) -> None:
        """Count all images that wait here as dropped."""
        for frame in chain(self._sets.empty(), *self._room.empty()):
            self._counters.drop(reason, header=frame.header)
        for wanted in self._poses.empty():
            _refuse_pose(wanted)

    def restart(self, reason: DropReason = DropReason.TIME_WENT_BACK) -> None:
        """Time begins anew, for all cameras at once: images that wait are dropped, for `reason`."""
        for order in self._orders.values():
            order.forget()
        self.give_up(reason)
        if self._source is not None:
            self._source.forget()
        if self._depth is not None:
            self._depth.forget()
        self._thread.forget()

    def _prepare(self, name: str, camera: Camera, parameters: NodeParameters) -> None:
        self._thread.prepare(name, camera, self._placements.expected(parameters), parameters)

    def _on_frame(self, frame: Frame) -> None:
        if self._names:
            tolerance_ns = round(1e9 * frame.parameters.sync_tolerance)
            timeout_s = frame.parameters.sync_timeout
            self._sets.add(frame.name, frame.stamp_ns, frame, tolerance_ns=tolerance_ns, timeout_s=timeout_s)
        else:
            self._room.enter((frame,), frame.parameters.sync_timeout)

    def _on_set(self, frames: list[Frame], missing: list[str]) -> None:
        for name in missing:
            self._counters.count_missing(name)
        self._room.enter(tuple(frames), _newest(frames).sync_timeout)

    def _admit(self, frames: tuple[Frame, ...]) -> None:
        for frame in frames:
            self._place(frame)
        for frame in frames:
            missing = frame.placement.odometry_from_grid
            if isinstance(missing, NotYetError) and missing.may_come:
                raise missing  # it is waited for, but not in vain: `_turn_away` goes on without it
        for frame in frames:
            self._sense(frame, final=False)
        self._submit(frames)

    def _turn_away(self, frames: tuple[Frame, ...], error: NotYetError) -> None:
        """Go on with those images that have their transforms."""
        placed = []
        for frame in frames:
            try:
                self._place(frame)
                self._sense(frame, final=True)
                placed.append(frame)
            except NotYetError as missing:  # of each image its own, not only of the first
                self._counters.drop(DropReason.NO_TRANSFORM, f"{frame.topic}: {missing}", header=frame.header)
        if placed:
            self._submit(tuple(placed))

    def _refuse(self, frames: tuple[Frame, ...]) -> None:
        for frame in frames:
            why = f"{frame.topic}: too many images wait for transforms already"
            self._counters.drop(DropReason.NO_TRANSFORM, why, header=frame.header)

    def _place(self, frame: Frame) -> None:
        frame.placement = self._placements.place(frame.frame_id, frame.stamp_ns, frame.parameters)

    def _sense(self, frame: Frame, *, final: bool) -> None:
        """Find out what a sensor saw of its depths. Raises NotYetError unless `final` where that may still come."""
        if self._depth is None:
            return
        bundle, camera_from = self._thread.student.bundle, self._placements.camera_from_sensor
        try:
            frame.depth = self._depth.of(frame, bundle, camera_from, final=final)
        except NotYetError as error:
            if error.may_come and not final:
                raise
            frame.depth = error.with_traceback(None)

    def _submit(self, frames: tuple[Frame, ...]) -> None:
        parameters = _newest(frames)
        pose: PoseToCome | None = None
        scaled = parameters.scale_from != "off" and self._thread.student.bundle.takes_evidence
        if scaled and self._source is not None and frames[0].placement.odometry_from_grid is None:
            wanted = _WantedPose(frames[0])  # for scale: no image waits for that
            self._poses.enter(wanted, parameters.sync_timeout)
            pose = wanted.pose
        self._thread.submit(frames, parameters, pose)

    def _look(self) -> None:
        self._room.look()
        self._poses.look()

    def _find_pose(self, wanted: _WantedPose) -> None:
        frame = wanted.frame
        wanted.pose.set_result(self._placements.in_odometry(frame.frame_id, frame.stamp_ns, frame.parameters))

    def _on_clock_jump(self, jump: Any) -> None:
        self._counters.warn("clock jump", "the clock jumped back: a restarted recording?")
        self.restart()


def _without_pose(wanted: _WantedPose, error: NotYetError) -> None:
    wanted.pose.set_result(NotYetError(error.what, where=error.where, cure=error.cure, may_come=False))


def _refuse_pose(wanted: _WantedPose) -> None:
    wanted.pose.set_result(NotYetError("too many images wait for transforms, or the node stopped", may_come=False))


def _newest(frames: Sequence[Frame]) -> NodeParameters:
    """The parameters of when the last one arrived."""
    return max(frames, key=lambda frame: frame.arrived_s).parameters
