"""Where the voxels of an image lie: the camera in the grid, the grid in what is published, the grid in the map.

Transforms come from topics of odometry, from tf2, or from parameters.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.time import Time

from scene_completion_ros.errors import SceneCompletionError, TransformConflictError
from scene_completion_ros.geometry import transforms
from scene_completion_ros.geometry.transforms import RigidTransform, TransformError, rotation_of_angles
from scene_completion_ros.messages.transform_buffer import NoTransformError, TransformBuffer, stamp_of
from scene_completion_ros.ros.frame import NotYetError, Placement
from scene_completion_ros.ros.parameters import NodeParameters, names_in
from scene_completion_ros.ros.waiting import AdaptiveSubscription

LARGEST_GAP_NS = 500_000_000  # between two transforms that is interpolated over; tf2 does so over any
KEEP_NS = 10_000_000_000  # as long as tf2 does
DEPTH = 100  # transforms may come in bursts
DOUBTS_S = 5.0  # between two looks at what is doubtful about them, which cost some milliseconds


class TopicTransforms:
    """Transforms from topics of odometry."""

    def __init__(
        self,
        node: Any,
        # Topics of nav_msgs/Odometry: the pose of child_frame_id, or of FRAME with TOPIC=FRAME, in header.frame_id.
        odometry_topics: tuple[str, ...],
        on_arrival: Callable[[], None],
        on_rejected: Callable[[str], None],  # called with the reason for each transform that is left out
        resources: ExitStack,
    ) -> None:
        self._on_arrival, self._on_rejected = on_arrival, on_rejected
        self._node, self.heard = node, TransformBuffer(keep_ns=KEEP_NS)
        self._topics = {topic: child for topic, _, child in (named.partition("=") for named in odometry_topics)}
        for topic, child in self._topics.items():
            heard = partial(self._on_odometry, topic, child)
            AdaptiveSubscription(node, Odometry, topic, heard, depth=DEPTH, resources=resources)

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int) -> RigidTransform:
        """Find target_from_source. `tolerance_ns`: how long after the last transform that one still holds.

        Nothing here waits (see `WaitingRoom`). Raises NotYetError where there is none, with what is missing and whether
        it may still come.
        """
        try:
            return self.heard.find(target, source, stamp_ns, max_gap_ns=LARGEST_GAP_NS, tolerance_ns=tolerance_ns)
        except NoTransformError as error:
            raise NotYetError(
                error.what,
                where=error.where or f"transforms (topics {', '.join(self._topics)})",
                cure=error.cure,
                may_come=error.problem in ("unconnected", "after"),
            ) from None

    def forget(self) -> None:
        """Forget all transforms: time went back."""
        self.heard.forget_moving()

    def _on_odometry(self, topic: str, child: str, message: Any) -> None:
        self.heard.add_odometry(message, child, topic)
        self.heard.ahead_ns.append(ahead_ns(self._node, message.header))
        for reason in self.heard.rejected.elements():
            self._on_rejected(f"{topic}: {reason}")
        self.heard.rejected.clear()
        self._on_arrival()


class Tf2Transforms:
    """Transforms that tf2 knows.

    tf2 interpolates over any gap; `LARGEST_GAP_NS` does not bind it. /tf and /tf_static are not subscribed to before
    the first look-up, whose image then comes before all transforms. `node`: the rclpy node; its executor serves the
    listener too.
    """

    def __init__(self, node: Any, resources: ExitStack) -> None:
        import tf2_ros

        self._tf2: Any = tf2_ros
        self._buffer = tf2_ros.Buffer()
        self._node, self._resources, self._listening = node, resources, False
        self.heard = TransformBuffer(keep_ns=KEEP_NS)  # all of it once more: tf2 overwrites what contradicts

    def _listen(self) -> None:
        for name, static in (("set_transform", False), ("set_transform_static", True)):
            setattr(self._buffer, name, partial(self._on_transform, getattr(self._buffer, name), static))
        self._resources.callback(self._tf2.TransformListener(self._buffer, self._node, spin_thread=False).unregister)
        self._listening = True

    def _on_transform(self, take: Callable[..., Any], static: bool, transform: Any, authority: str) -> None:
        self.heard.add_stamped(transform, static=static, topic="/tf_static" if static else "/tf")
        if not static:
            self.heard.ahead_ns.append(ahead_ns(self._node, transform.header))
        take(transform, authority)

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int) -> RigidTransform:
        """See `TopicTransforms`."""
        if not self._listening:
            self._listen()
        target, source = target.strip("/"), source.strip("/")
        if stamp_ns <= 0:  # tf2 takes 0 for "whenever", and rclpy has no time before it
            raise self._missing(target, source, "the image has no stamp", may_come=False)
        latest_ns = 0
        try:
            latest_ns = self._buffer.get_latest_common_time(target, source).nanoseconds  # 0 where all is fixed
            held = 0 < stamp_ns - latest_ns <= tolerance_ns and latest_ns > 0
            time = Time(nanoseconds=latest_ns if held else stamp_ns)
            transform = self._buffer.lookup_transform(target, source, time).transform
        except self._tf2.ExtrapolationException as error:
            raise self._missing(target, source, error, may_come=stamp_ns > latest_ns) from None
        except self._tf2.TransformException as error:
            raise self._missing(target, source, error, may_come=True) from None
        rotation, translation = transform.rotation, transform.translation
        try:
            return RigidTransform.from_quaternion(
                (rotation.x, rotation.y, rotation.z, rotation.w), (translation.x, translation.y, translation.z)
            )
        except TransformError as error:  # tf2 takes numbers of any size
            raise self._missing(target, source, error.what, may_come=False) from None

    def forget(self) -> None:
        """See `TopicTransforms`."""
        self._buffer.clear()
        self.heard.forget_moving()

    def _missing(self, target: str, source: str, error: object, *, may_come: bool) -> NotYetError:
        return NotYetError(
            f"no transform from {source!r} to {target!r} ({error})",
            where="tf2",
            cure=f"Check with: ros2 run tf2_ros tf2_echo {target} {source}; where tf does not know it, set "
            f"camera.height and camera.pitch. Known frames: {self.heard.known(source)}",
            may_come=may_come,
        )


def ahead_ns(node: Any, header: Any) -> int:
    """By how much the stamp of a message is ahead of the clock of the node, nanoseconds."""
    return stamp_of(header) - int(node.get_clock().now().nanoseconds)


TransformSource: TypeAlias = TopicTransforms | Tf2Transforms


@cache
def tf2_usable() -> bool:
    """Whether tf2_ros can be imported."""
    try:
        import tf2_ros  # noqa: F401
    except ImportError:
        return False
    return True


def make_transform_source(
    node: Any,
    parameters: NodeParameters,
    on_arrival: Callable[[], None],  # called after new transforms, where the source supports that
    # Called with the reason for each transform that is left out, where the source supports that.
    on_rejected: Callable[[str], None],
    resources: ExitStack,
) -> TransformSource | None:
    """The topics of odometry that are named, else tf2 where it can be imported, else None."""
    if topics := names_in(parameters.odometry_topics):
        return TopicTransforms(node, topics, on_arrival, on_rejected, resources)
    return Tf2Transforms(node, resources) if tf2_usable() else None


class Placements:
    """Places images by the parameters, or by a source of transforms.

    `source`: the source; None where there is none; `default`: pose of the
    camera's optical frame in a grid that is attached to it; `trained_height`: height above the ground of the cameras
    that the student was trained with, metres. A map without a frame of the robot takes it where `camera.height` is 0.
    """

    def __init__(self, source: TransformSource | None, default: RigidTransform, trained_height: float) -> None:
        self._source, self._default, self._trained_height = source, default, trained_height
        self.images_ahead_ns: deque[int] = deque(maxlen=3)  # of the clock of the node, the newest images
        self._doubts: tuple[float, list[str]] = -DOUBTS_S, []

    def expected(self, parameters: NodeParameters) -> RigidTransform:
        """Pose of the camera in the grid before any image came: right, unless a source of transforms gives another."""
        known = parameters.grid_frame and self._source_for(parameters) is None
        return camera_pose(parameters) if known else self._default

    def optical_frame(self, frame_id: str, parameters: NodeParameters) -> str:
        """The optical frame of images. Raises NotYetError where they have to be placed by that of a body."""
        frame_id = frame_id.strip("/")
        if self._source is None:
            return frame_id
        try:
            return self._source.heard.optical_frame(frame_id, f"frame {frame_id}")[0]
        except TransformConflictError as error:
            if not self._source_for(parameters) or not (parameters.base_frame or parameters.grid_frame):
                return frame_id
            raise NotYetError(error.what, where=error.where, cure=error.cure, may_come=True) from None

    def doubts(self, frame_id: str, parameters: NodeParameters) -> list[str]:
        """List what is doubtful about the transforms of images, as a recording is refused or warned for it.

        It is looked at anew every `DOUBTS_S`.
        """
        if self._source is None or time.monotonic() - self._doubts[0] < DOUBTS_S:
            return self._doubts[1]
        heard, frame, found = self._source.heard, frame_id.strip("/"), []
        try:
            frame, note = heard.optical_frame(frame_id, f"frame {frame_id}")
            found.append(note)
        except TransformConflictError as error:
            found.append(str(error))
        for target in (parameters.grid_frame or parameters.base_frame, parameters.odometry_frame):
            found += [str(problem) for problem in heard.problems(target, frame)]
        found.append(heard.clock_problem("the camera", [*self.images_ahead_ns], "the clock of the node"))
        self._doubts = time.monotonic(), [*filter(None, dict.fromkeys(found))]
        return self._doubts[1]

    def place(self, frame_id: str, stamp_ns: int, parameters: NodeParameters) -> Placement:
        """Where an image's voxels lie, by its parameters. Raises NotYetError where a transform for that is missing."""
        placement = self._place(frame_id, stamp_ns, parameters)
        if not parameters.scale_wait or parameters.scale_from == "off":
            return placement
        try:
            return replace(placement, odometry_from_grid=self.in_odometry(frame_id, stamp_ns, parameters))
        except NotYetError as error:
            return replace(placement, odometry_from_grid=error.with_traceback(None))

    def _source_for(self, parameters: NodeParameters) -> TransformSource | None:
        """The source that places the camera; None where `camera.height` and `camera.pitch` do."""
        return None if parameters.camera_height else self._source

    def in_odometry(self, frame_id: str, stamp_ns: int, parameters: NodeParameters) -> RigidTransform:
        """The grid's pose in the odometry frame at an image's stamp. Raises NotYetError if a transform is missing."""
        odometry, grid_frame = parameters.odometry_frame, parameters.grid_frame
        if odometry == grid_frame:
            return RigidTransform.identity()
        if self._source is None:
            raise NotYetError(f"it is unknown where the voxel grid is in {odometry!r}", may_come=False)
        found = self._source.lookup(odometry, grid_frame or frame_id, stamp_ns, _tolerance_ns(parameters))
        return found if grid_frame else found @ self._default.inverse()

    def _place(self, frame_id: str, stamp_ns: int, parameters: NodeParameters) -> Placement:
        base, grid_frame, source = parameters.base_frame, parameters.grid_frame, self._source_for(parameters)
        tolerance_ns, identity = _tolerance_ns(parameters), RigidTransform.identity()

        def from_camera(frame: str) -> RigidTransform:
            return camera_pose(parameters) if source is None else source.lookup(frame, frame_id, stamp_ns, tolerance_ns)

        if grid_frame:
            grid_from_camera = from_camera(grid_frame)
            if source is None or base in ("", grid_frame):
                return Placement(grid_frame, grid_from_camera, identity, grid_frame, identity)
            map_from_grid = source.lookup(base, grid_frame, stamp_ns, tolerance_ns)
            return Placement(grid_frame, grid_from_camera, identity, base, map_from_grid)
        placed, camera_from_grid = (frame_id, self._default), self._default.inverse()
        if base:
            return Placement(*placed, camera_from_grid, base, from_camera(base) @ camera_from_grid)
        assumed = None if parameters.camera_height else self._trained_height
        pose = camera_pose(parameters if assumed is None else replace(parameters, camera_height=assumed))
        map_from_grid = pose @ camera_from_grid
        return Placement(*placed, camera_from_grid, frame_id, map_from_grid, pose.inverse(), assumed_height=assumed)


def _tolerance_ns(parameters: NodeParameters) -> int:
    return round(1e9 * parameters.transform_tolerance)


def check_frames(parameters: NodeParameters) -> None:
    """Raise SceneCompletionError, which names them, where the parameters about frames do not fit each other."""
    base, grid = parameters.base_frame, parameters.grid_frame
    if not parameters.camera_height and (names_in(parameters.odometry_topics) or tf2_usable()):
        return
    if base and grid and base != grid:
        raise SceneCompletionError(
            f"camera.height and camera.pitch place the camera in {base}, not in {grid}",
            where="parameters base_frame, grid.frame",
            cure="Take one frame for both, or leave camera.height at 0, so that tf or odometry.topics say it",
        )
    if (base or grid) and not parameters.camera_height:
        raise SceneCompletionError(
            f"it is unknown where the camera is in {grid or base}",
            where=f"parameters {'grid.frame' if grid else 'base_frame'}, camera.height",
            cure="Give camera.height and camera.pitch, or name odometry.topics, or have a ROS 2 distribution sourced, "
            "so that tf2 can say it",
        )


def camera_pose(parameters: NodeParameters) -> RigidTransform:
    """Pose of the camera's optical frame in the upright frame of the map, by `camera.height` and `camera.pitch`.

    That is `base_frame`, or where it is empty `grid.frame`, or without both the frame on the ground below the camera.
    """
    rotation = rotation_of_angles(0.0, math.radians(parameters.camera_pitch), 0.0)
    forward = RigidTransform(rotation, np.array([0.0, 0.0, parameters.camera_height]))
    return forward @ transforms.OPTICAL_FROM_FORWARD.inverse()
