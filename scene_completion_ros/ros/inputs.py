"""All that the active node hears: cameras and transforms, brought together for the inference thread."""

import functools
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.drop_reasons import DropReason, StampOrder
from scene_completion_ros.ros.camera_input import CameraInput
from scene_completion_ros.ros.declared_parameters import DeclaredParameters
from scene_completion_ros.ros.depth_input import DepthInput
from scene_completion_ros.ros.frame import Frame, NotYetError, PoseToCome
from scene_completion_ros.ros.health.input_health import InputRecord
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.inference_thread import InferenceThread
from scene_completion_ros.ros.parameters import NodeParameters, names_in
from scene_completion_ros.ros.placements import Placements, make_transform_source
from scene_completion_ros.ros.waiting import ImageSets, Poll, polled_room

_EARLY = 0.1  # of a period by which an image may come too early for `largest_rate`: stamps jitter


@dataclass(frozen=True, eq=False)
class _WantedPose:
    frame: Frame
    pose: PoseToCome = field(default_factory=Future)


class Inputs:
    """Hears images, CameraInfo and transforms as long as the node is active.

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
        resources.callback(self._give_up, DropReason.DEACTIVATED)
        self._poses = polled_room(node, self._find_pose, _without_pose, _refuse_pose, resources)
        self._names = names_in(at_start.cameras)
        self._sets: ImageSets[Frame] = ImageSets(
            self._names,
            self._on_set,
            lambda frame: counters.drop(DropReason.NOT_TOGETHER, header=frame.header),
            on_waiting=lambda: self._poll_sets.start(),
        )
        self._poll_sets = Poll(node, self._look_for_sets, resources)
        on_bad_transform = functools.partial(counters.drop, DropReason.BAD_TRANSFORM)
        self._source = make_transform_source(node, at_start, self._look, on_bad_transform, resources)
        self._placements = Placements(self._source, grid_from_camera, thread.student.bundle.height_above_ground)
        self._depth: DepthInput | None = None
        if at_start.depth_from == "topic":
            self._depth = DepthInput(node, at_start.depth_topic, counters, self._look, resources)
        # Of the last images that were handed on: stamp, and when they arrived (`time.perf_counter`).
        self._last: tuple[int, float] | None = None
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
        self._give_up(reason)
        for camera in self.cameras:
            camera.give_up(reason)

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
        self._last = None

    def _prepare(self, name: str, camera: Camera, parameters: NodeParameters) -> None:
        self._thread.prepare(name, camera, self._placements.expected(parameters), parameters)

    def _on_frame(self, frame: Frame) -> None:
        if self._names:
            tolerance_ns = round(1e9 * frame.parameters.sync_tolerance)
            timeout_s = frame.parameters.sync_timeout
            self._sets.add(frame.name, frame.stamp_ns, frame, tolerance_ns=tolerance_ns, timeout_s=timeout_s)
        else:
            self._room.enter((frame,), frame.parameters.transform_timeout)

    def _on_set(self, frames: list[Frame], missing: list[str]) -> None:
        for name in missing:
            self._counters.count_missing(name)
        self._room.enter(tuple(frames), _newest(frames).transform_timeout)

    def _look_for_sets(self) -> bool:
        self._sets.look()
        return bool(len(self._sets))

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
        parameters, stamp_ns = _newest(frames), max(frame.stamp_ns for frame in frames)
        arrived_s = max(frame.arrived_s for frame in frames)
        if parameters.largest_rate and self._last is not None:
            last_ns, last_s = self._last
            since_s = 1e-9 * (stamp_ns - last_ns) or arrived_s - last_s  # stamps of some drivers stand still
            if since_s * parameters.largest_rate < 1.0 - _EARLY:
                for frame in frames:
                    self._counters.drop(DropReason.ABOVE_RATE, header=frame.header)
                return
        self._last = stamp_ns, arrived_s
        pose: PoseToCome | None = None
        scaled = parameters.scale_from != "off" and self._thread.student.bundle.takes_evidence
        if scaled and self._source is not None and frames[0].placement.odometry_from_grid is None:
            wanted = _WantedPose(frames[0])  # for scale: no image waits for that
            self._poses.enter(wanted, parameters.transform_timeout)
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

    def _give_up(self, reason: DropReason) -> None:
        for frame in chain(self._sets.empty(), *self._room.empty()):
            self._counters.drop(reason, header=frame.header)
        for wanted in self._poses.empty():
            _refuse_pose(wanted)


def _without_pose(wanted: _WantedPose, error: NotYetError) -> None:
    wanted.pose.set_result(NotYetError(error.what, where=error.where, cure=error.cure, may_come=False))


def _refuse_pose(wanted: _WantedPose) -> None:
    wanted.pose.set_result(NotYetError("too many images wait for transforms, or the node stopped", may_come=False))


def _newest(frames: Sequence[Frame]) -> NodeParameters:
    """The parameters of when the last one arrived."""
    return max(frames, key=lambda frame: frame.arrived_s).parameters
