"""Where transforms come from: tf2, topics of transforms and odometry, or a file of fixed ones."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.time import Time

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.extrinsics import Extrinsic, read_extrinsics
from scene_completion_ros.geometry.transform_tree import NoTransformError
from scene_completion_ros.geometry.transforms import RigidTransform, TransformError
from scene_completion_ros.messages.transform_buffer import TransformBuffer
from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.messages import stamp_message
from scene_completion_ros.ros.parameters.schema import NodeParameters, names_in
from scene_completion_ros.ros.subscriptions import AdaptiveSubscription

LARGEST_GAP_NS = 500_000_000  # between two transforms that is interpolated over; tf2 does so over any
KEEP_NS = 10_000_000_000  # as long as tf2 does
DEPTH = 100  # transforms may come in bursts

SourceKind = Literal["parameters", "topics", "tf2"]


class TransformSource(Protocol):
    """Transforms between frames at a time. Nothing here waits: see `WaitingRoom`."""

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int) -> RigidTransform:
        """Find target_from_source. `tolerance_ns`: how long after the last transform that one still holds.

        Raises NotYetError where there is none: says what is missing, and whether it may still come.
        """

    def forget(self) -> None:
        """Forget all transforms but fixed ones: time went back."""


class TopicTransforms:
    """Transforms from topics; a TransformStamped of a topic that all publishers latch is fixed, as of /tf_static."""

    def __init__(
        self,
        node: Any,
        transform_topics: tuple[str, ...],  # topics of geometry_msgs/TransformStamped
        # Topics of nav_msgs/Odometry: the pose of child_frame_id, or of FRAME with TOPIC=FRAME, in header.frame_id.
        odometry_topics: tuple[str, ...],
        fixed: list[Extrinsic],
        on_arrival: Callable[[], None],
        on_rejected: Callable[[str], None],  # called with the reason for each transform that is left out
        resources: ExitStack,
    ) -> None:
        self._on_arrival, self._on_rejected = on_arrival, on_rejected
        self._buffer = TransformBuffer(keep_ns=KEEP_NS)
        for extrinsic in fixed:
            self._buffer.add(extrinsic.parent, extrinsic.child, 0, extrinsic.parent_from_child, static=True)
        odometries = {topic: child for topic, _, child in (named.partition("=") for named in odometry_topics)}
        self._topics = (*transform_topics, *odometries)
        for topic in transform_topics:
            heard = partial(self._on_transform, topic)
            AdaptiveSubscription(node, TransformStamped, topic, heard, depth=DEPTH, resources=resources, latched=True)
        for topic, child in odometries.items():
            heard = partial(self._on_odometry, topic, child)
            AdaptiveSubscription(node, Odometry, topic, heard, depth=DEPTH, resources=resources)

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int) -> RigidTransform:
        """See `TransformSource`."""
        try:
            return self._buffer.find(target, source, stamp_ns, max_gap_ns=LARGEST_GAP_NS, tolerance_ns=tolerance_ns)
        except NoTransformError as error:
            heard = ", ".join(self._topics) or "none: extrinsics_file alone"
            raise NotYetError(
                error.what,
                where=error.where or f"transforms (topics {heard})",
                cure=error.cure,
                may_come=bool(self._topics) and error.problem in ("unconnected", "after"),
            ) from None

    def forget(self) -> None:
        """See `TransformSource`."""
        self._buffer.forget_moving()

    def _on_transform(self, topic: str, message: Any, latched: bool) -> None:
        self._buffer.add_stamped(message, static=latched, topic=topic)
        self._arrived(topic)

    def _on_odometry(self, topic: str, child: str, message: Any, latched: bool) -> None:
        self._buffer.add_odometry(message, child, topic)
        self._arrived(topic)

    def _arrived(self, topic: str) -> None:
        for reason in self._buffer.rejected.elements():
            self._on_rejected(f"{topic}: {reason}")
        self._buffer.rejected.clear()
        self._on_arrival()


class Tf2Transforms:
    """Transforms that tf2 knows, and fixed ones.

    tf2 interpolates over any gap; `LARGEST_GAP_NS` says nothing to it. Raises SceneCompletionError: tf2_ros cannot be
    imported. `node`: the rclpy node; its executor serves the listener too; `on_demand`: subscribe to /tf and /tf_static
    no sooner than a transform is asked for.
    """

    def __init__(self, node: Any, fixed: list[Extrinsic], resources: ExitStack, *, on_demand: bool) -> None:
        try:
            import tf2_ros
        except ImportError as error:
            what = f"tf2_ros cannot be imported ({error})"
            cure = "Source a ROS 2 distribution, or use `topics` or an extrinsics_file"
            raise SceneCompletionError(what, where="parameter transform.source", cure=cure) from error
        self._tf2: Any = tf2_ros
        self._buffer = tf2_ros.Buffer()
        for extrinsic in fixed:
            self._buffer.set_transform_static(transform_message(extrinsic), "extrinsics_file")
        self._node, self._resources, self._listening = node, resources, False
        if not on_demand:
            self._listen()

    def _listen(self) -> None:
        self._resources.callback(self._tf2.TransformListener(self._buffer, self._node, spin_thread=False).unregister)
        self._listening = True

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int) -> RigidTransform:
        """See `TransformSource`."""
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
        """See `TransformSource`."""
        self._buffer.clear()

    @staticmethod
    def _missing(target: str, source: str, error: object, *, may_come: bool) -> NotYetError:
        return NotYetError(
            f"no transform from {source!r} to {target!r} ({error})",
            where="tf2",
            cure=f"Check with: ros2 run tf2_ros tf2_echo {target} {source}; where tf does not know it, set "
            "camera.height to camera.yaw, or name an extrinsics_file",
            may_come=may_come,
        )


@cache
def tf2_usable() -> bool:
    """Whether tf2_ros can be imported."""
    try:
        import tf2_ros  # noqa: F401
    except ImportError:
        return False
    return True


def camera_by_parameters(parameters: NodeParameters) -> bool:
    """Whether `camera.x` to `camera.yaw` alone place the camera; with `auto`, where `camera.height` was given alone."""
    if parameters.transform_source != "auto":
        return parameters.transform_source == "parameters" and not parameters.extrinsics_file
    return parameters.camera_height > 0.0 and not (
        _names_topics(parameters) or parameters.extrinsics_file or parameters.cameras
    )


def source_kind(parameters: NodeParameters) -> SourceKind:
    """What is meant by the parameters.

    What somebody named comes before what is merely installed. `auto` takes the topics that are named. Else it takes
    `extrinsics_file`, or `camera.x` to `camera.yaw`, where it or `camera.height` was given. Else it takes tf2 where it
    can be imported.
    """
    if parameters.transform_source != "auto":
        return parameters.transform_source
    if _names_topics(parameters):
        return "topics"
    if camera_by_parameters(parameters) or parameters.extrinsics_file:
        return "parameters"
    return "tf2" if tf2_usable() else "parameters"


def _names_topics(parameters: NodeParameters) -> bool:
    return bool(parameters.transform_topics or parameters.odometry_topics)


def make_transform_source(
    node: Any,
    parameters: NodeParameters,
    on_arrival: Callable[[], None],  # called after new transforms, where the source can tell
    # Called with the reason for each transform that is left out, where the source can tell.
    on_rejected: Callable[[str], None],
    resources: ExitStack,
) -> TransformSource | None:
    """The source that the parameters ask for.

    Returns None where nothing but the parameters `camera.x` to `camera.yaw` can say where the camera is. Of those with
    `auto`, `camera.height` may be given and taken back while the node runs: see `camera_by_parameters`. Raises
    SceneCompletionError: tf2_ros or the file of fixed transforms cannot be had.
    """
    fixed = fixed_transforms(parameters)
    automatic = parameters.transform_source == "auto"
    kind = source_kind(replace(parameters, camera_height=0.0) if automatic else parameters)
    if kind == "tf2":
        return Tf2Transforms(node, fixed, resources, on_demand=automatic)
    if kind == "parameters" and not fixed:
        return None
    topics = kind == "topics"
    return TopicTransforms(
        node,
        names_in(parameters.transform_topics) if topics else (),
        names_in(parameters.odometry_topics) if topics else (),
        fixed,
        on_arrival,
        on_rejected,
        resources,
    )


def fixed_transforms(parameters: NodeParameters) -> list[Extrinsic]:
    """Those of `extrinsics_file`; none where it is empty. Raises TransformError where the file is malformed."""
    if not parameters.extrinsics_file:
        return []
    try:
        return read_extrinsics(Path(parameters.extrinsics_file))
    except TransformError as error:
        raise TransformError(error.what, where=f"parameter extrinsics_file, {error.where}", cure=error.cure) from None


def transform_message(extrinsic: Extrinsic, stamp_ns: int = 0) -> Any:
    """A transform as a geometry_msgs/TransformStamped."""
    message = TransformStamped(child_frame_id=extrinsic.child)
    message.header.frame_id, message.header.stamp = extrinsic.parent, stamp_message(stamp_ns)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = extrinsic.parent_from_child.translation.tolist()
    rotation.x, rotation.y, rotation.z, rotation.w = extrinsic.parent_from_child.quaternion.tolist()
    return message
