"""How a camera moves while a bag is recorded: by its tf, or by odometry where tf is not enough."""

from collections.abc import Callable, Iterator

from scene_completion_ros.bags.reader import ODOMETRY_TYPE, BagReader
from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.transform_buffer import TransformBuffer, child_cure, stamp_of

LARGEST_GAP_NS = 500_000_000  # between two poses that is interpolated over, as in the node


def moving_transforms(
    reader: BagReader,
    image_topic: str,
    frame: str,  # of the images
    transforms: Callable[[str | None], TransformBuffer],  # those of tf, and of an odometry topic if one is named
    world_frame: str | None = None,
    odometry_topic: str | None = None,  # to use where tf is not enough; the only one by default
) -> tuple[TransformBuffer, str, str]:
    """Buffer that knows how a frame moves, name of the world frame, and a description of the source.

    Raises BagError where nothing says how it moves: names what to record; TransformConflictError where transforms
    contradict each other: names topics and frames.
    """
    buffer = transforms(None)
    world = world_frame or buffer.root_of(frame)
    buffer.check(world, frame)
    if buffer.has_path(world, frame) and not buffer.is_static(world, frame):
        return buffer, world, f"tf {world} -> {frame}"
    found = reader.of_robot(reader.topics_of_type(ODOMETRY_TYPE), image_topic)
    odometries = [odometry_topic] if odometry_topic else found
    listed = ", ".join(odometries) or "none"
    if len(odometries) != 1:
        what = f"tf does not say how {frame!r} moves, and odometry topics are: {listed}"
        cure = "Record /tf and /tf_static, or record (or name) one odometry topic"
        raise BagError(what, where=str(reader.path), cure=cure)
    topic, _, child = listed.partition("=")
    first = reader.first(topic)
    if not child and first is not None and not first.child_frame_id:
        what = "odometry without child_frame_id, the frame that its poses are of"
        raise BagError(what, where=f"{reader.path}, topic {topic}", cure=child_cure(f"--odometry-topic {topic}"))
    buffer = transforms(listed)
    world = world_frame or buffer.root_of(frame)
    if not buffer.has_path(world, frame) or buffer.is_static(world, frame):
        cure = f"Record the static transform to the camera; known frames: {', '.join(buffer.frames) or 'none'}"
        raise BagError(f"neither tf nor {listed} says how {frame!r} moves", where=str(reader.path), cure=cure)
    buffer.check(world, frame)
    return buffer, world, f"{topic} and tf, {world} -> {frame}"


class RecordedMotion:
    """Where the camera of an image topic was at any time of a recording.

    Raises BagError where nothing in the recording says how it moves: names what to record.
    """

    def __init__(self, reader: BagReader, topic: str) -> None:
        first = next((header for _, header in reader.readable([topic], lambda message: message.header)), None)
        self.frame = "" if first is None else str(first.frame_id)
        self._buffer, self.world, self.source = moving_transforms(
            reader, topic, self.frame, lambda name: reader.tf_buffer(odometry_topic=name, image_topic=topic)
        )
        self._path, self._topic = reader.path, topic

    def at(self, stamp_ns: int) -> RigidTransform | str:
        """Pose of the camera's optical frame in the frame `world`; or why nobody knows it."""
        try:
            return self._buffer.lookup(self.world, self.frame, stamp_ns, LARGEST_GAP_NS)
        except BagError as error:
            return error.what

    def of_images(self) -> Iterator[tuple[int, int, RigidTransform]]:
        """Bag time and stamp of each image, and where the camera was, as far as that is known."""
        with BagReader(self._path) as reader:
            for recorded, stamp_ns in reader.readable([self._topic], lambda message: stamp_of(message.header)):
                pose = self.at(stamp_ns)
                if not isinstance(pose, str):
                    yield recorded.stamp_ns, stamp_ns, pose
