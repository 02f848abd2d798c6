"""The inputs of the active node: images with their calibration and transforms, for the inference thread."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from scene_completion_ros.errors import SceneCompletionError, in_words
from scene_completion_ros.geometry.camera_info import camera_from_camera_info, is_rectified_topic
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.plausible_cameras import LARGEST_VARIATION, STEADY, Doubt, SteadyCamera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.drop_reasons import DropReason, StampOrder
from scene_completion_ros.ros.declared_parameters import DeclaredParameters
from scene_completion_ros.ros.frame import Frame, NotYetError, PoseToCome
from scene_completion_ros.ros.health.diagnostics import InputRecord
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.inference_thread import InferenceThread
from scene_completion_ros.ros.messages import LATCHED_QOS, stamp_nanoseconds
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.placements import Placements, ahead_ns, make_transform_source
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE
from scene_completion_ros.ros.waiting import noted_subscription, polled_room

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
        deliver: Callable[[Frame], None],
        # Called with calibration and parameters before an image needs them.
        prepare: Callable[[Camera, NodeParameters], None],
        restart: Callable[[], None],  # called when stamps jumped back, before the first image of the new time
        counters: FrameCounters,
        order: StampOrder,
        resources: ExitStack,
    ) -> None:
        self._node, self._parameters = node, parameters
        self._deliver, self._prepare_model, self._restart = deliver, prepare, restart
        self._counters, self._order, self._resources = counters, order, resources
        # The usable message in use, how it was read, and what for.
        self._camera_info: Any = None
        self._steady = SteadyCamera()
        self._rectified = False
        self._prepared_for: tuple[Camera, NodeParameters] | None = None
        self._heard_latched = False
        at_start = parameters.snapshot()
        # As image_transport does: the base name is remapped, the transport is appended to the result.
        topic, image_type = self._node.resolve_topic_name(IMAGE), Image
        if at_start.image_transport == "compressed":
            topic, image_type = f"{topic}/compressed", CompressedImage
        self._image_topic = topic
        self._camera_info_topic = self._node.resolve_topic_name(CAMERA_INFO)
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

    def _read_camera(self, camera_info: Any, parameters: NodeParameters) -> tuple[Camera, list[Doubt]]:
        rectified, doubts = parameters.image_rectified, list[Doubt]()
        camera = camera_from_camera_info(camera_info, rectified=rectified, where=self._camera_info_topic, doubts=doubts)
        if not rectified and is_rectified_topic(self._image_topic) and camera.distortion_model != "none":
            what = f"{self._image_topic} says that its images are rectified, but they are rectified once more"
            doubts.append(Doubt(what, where="image.rectified", cure="Set it to true", unusual=True))
        return camera, doubts

    def _on_camera_info(self, message: Any) -> None:
        self.record.camera_info_arrived(message, time.perf_counter())
        parameters = self._parameters.snapshot()
        try:
            camera = self._take(message, parameters)
        except SceneCompletionError as error:
            self._counters.drop(DropReason.BAD_CAMERA_INFO, str(error))
            return
        self._prepare(camera, parameters)

    def _take(self, message: Any, parameters: NodeParameters) -> Camera:
        """The camera to use from now on: that of a CameraInfo, or the former one if it merely varies."""
        camera, doubts = self._read_camera(message, parameters)
        if parameters.image_rectified != self._rectified:
            self._steady, self._rectified = SteadyCamera(), parameters.image_rectified
        before = self._steady.camera
        taken = self._steady.takes(camera)
        kept, varies = self._steady.camera or camera, self._steady.varies_px
        if kept.agrees(camera):
            self._camera_info, self.record.doubts = message, tuple(map(str, doubts))
        if taken and before is not None:
            self._counters.warn("new calibration", f"{self._camera_info_topic}: the calibration has changed")
        for number, doubt in enumerate(self.record.doubts if taken else ()):
            self._counters.warn(f"doubtful calibration {number}", doubt)
        what = (
            f"{self._camera_info_topic}: the calibration varies from message to message, by up to {varies:.1f} pixels "
            f"in the image; the node keeps one (fx {kept.fx:.1f}) until another lasts for {STEADY} messages or differs "
            f"by {LARGEST_VARIATION:.0%}. Fix focus and zoom of the camera"
        )
        if varies and not self.record.variation:
            self._counters.warn("varying calibration", what)
        self.record.variation = (what,) if varies else ()
        return kept

    def _camera_for(self, parameters: NodeParameters) -> Camera | None:
        """The usable camera; the CameraInfo is read anew where it is now to be read in another way."""
        if self._camera_info is not None and parameters.image_rectified != self._rectified:
            return self._take(self._camera_info, parameters)  # usable: see `check`
        return self._steady.camera

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
        for problem in self.record.header_problems():
            self._counters.warn(problem[:20], problem)  # one key each
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
        frame = Frame(self._image_topic, message, stamp_ns, arrived_s, parameters)
        frame.camera = camera
        self._deliver(frame)

    def _is_in_order(self, header: Any, stamp_ns: int) -> bool:
        arrival, behind_ns = self._order.arrived(stamp_ns), self._order.behind_ns
        if arrival == "late":
            self._counters.drop(DropReason.WENT_BACK, self._order.late(self._image_topic, stamp_ns), header=header)
            return False
        if arrival == "restarted":
            self._counters.warn("clock jump", f"stamps jumped back by {behind_ns / 1e9:.1f} s: a restarted recording?")
            self._restart()
        return True


@dataclass(frozen=True, eq=False)
class _WantedPose:
    frame: Frame
    pose: PoseToCome = field(default_factory=Future)


class Inputs:
    """Subscribes to images, CameraInfo and transforms as long as the node is active.

    All of it runs in the executor's thread, and nothing there blocks. An image whose transforms are not there yet waits
    in a queue while the inference thread goes on with what it has. Where time goes back (stamps of images or the clock,
    in a recording that begins anew), whatever is remembered of the time before is forgotten.
    """

    def __init__(
        self,
        node: Any,
        parameters: DeclaredParameters,
        thread: InferenceThread,
        counters: FrameCounters,
        order: StampOrder,  # stamps of the images so far
        grid_from_camera: RigidTransform,  # pose of the camera's optical frame in a grid that is attached to it
        resources: ExitStack,
    ) -> None:
        at_start = parameters.snapshot()
        self._node, self._parameters = node, parameters
        self._thread, self._counters, self._order = thread, counters, order
        self._warned: set[str] = set()
        self._room = polled_room(node, self._admit, self._turn_away, self._refuse, resources)
        resources.callback(self.give_up, DropReason.DEACTIVATED)
        self._poses = polled_room(node, self._find_pose, _without_pose, _refuse_pose, resources)
        on_bad_transform = functools.partial(counters.drop, DropReason.BAD_TRANSFORM)
        self._source = make_transform_source(node, at_start, self._look, on_bad_transform, resources)
        self._placements = Placements(self._source, grid_from_camera, thread.student.bundle.height_above_ground)
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        jumps = node.get_clock().create_jump_callback(backward, post_callback=self._on_clock_jump)
        resources.callback(jumps.unregister)
        self.camera = CameraInput(
            node, parameters, self._enter, self._prepare, self.restart, counters, order, resources
        )
        self.camera.record.placement_doubts = self._doubts

    def check(self, parameters: NodeParameters) -> None:
        """Raise CameraError where the calibration at hand has nothing to offer for these parameters."""
        self.camera.check(parameters)

    def give_up(self, reason: DropReason) -> None:
        """Count all images that wait here as dropped."""
        for frame in self._room.empty():
            self._counters.drop(reason, header=frame.header)
        for wanted in self._poses.empty():
            _refuse_pose(wanted)

    def restart(self) -> None:
        """Time begins anew: images that wait are dropped."""
        self._order.forget()
        self.give_up(DropReason.TIME_WENT_BACK)
        if self._source is not None:
            self._source.forget()
        self._thread.forget()

    def _doubts(self) -> list[str]:
        shape = self.camera.record.shape
        found = [] if shape is None else self._placements.doubts(shape.frame_id, self._parameters.snapshot())
        for doubt in found:
            if (key := doubt[:40]) not in self._warned:
                self._counters.warn(key, doubt)
                self._warned.add(key)
        return found

    def _prepare(self, camera: Camera, parameters: NodeParameters) -> None:
        self._thread.prepare(camera, self._placements.expected(parameters), parameters)

    def _enter(self, frame: Frame) -> None:
        self._placements.images_ahead_ns.append(ahead_ns(self._node, frame.header))
        self._room.enter(frame, frame.parameters.sync_timeout)

    def _admit(self, frame: Frame) -> None:
        self._place(frame)
        missing = frame.placement.odometry_from_grid
        if isinstance(missing, NotYetError) and missing.may_come:
            raise missing  # it is waited for, but not in vain: `_turn_away` goes on without it
        self._submit(frame)

    def _turn_away(self, frame: Frame, error: NotYetError) -> None:
        """Go on without the pose in the odometry frame, but not without the place of the image."""
        try:
            self._place(frame)
        except NotYetError as missing:
            self._counters.drop(DropReason.NO_TRANSFORM, f"{frame.topic}: {missing}", header=frame.header)
            return
        self._submit(frame)

    def _refuse(self, frame: Frame) -> None:
        why = f"{frame.topic}: too many images wait for transforms already"
        self._counters.drop(DropReason.NO_TRANSFORM, why, header=frame.header)

    def _place(self, frame: Frame) -> None:
        frame.frame_id = self._placements.optical_frame(frame.header.frame_id, frame.parameters)
        frame.placement = self._placements.place(frame.frame_id, frame.stamp_ns, frame.parameters)

    def _submit(self, frame: Frame) -> None:
        parameters = frame.parameters
        scaled = parameters.scale_from != "off" and self._thread.student.bundle.takes_evidence
        if scaled and self._source is not None and frame.placement.odometry_from_grid is None:
            wanted = _WantedPose(frame)  # for scale: no image waits for that
            self._poses.enter(wanted, parameters.sync_timeout)
            frame.pose = wanted.pose
        self._thread.submit(frame)

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
