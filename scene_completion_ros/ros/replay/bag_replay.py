"""Play a bag through the running node in another process, over DDS, and collect what it publishes."""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import COMPRESSED_TYPE, BagWriter, write_transforms
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.replay.played_node import NodeProcess
from scene_completion_ros.ros.replay.results import ReplayResult, ReplayStatistics
from scene_completion_ros.ros.topics import IMAGE
from scene_completion_ros.sequences.from_bag import RecordedMotion

LOCK_STEP_PATIENCE_S = 3.0  # with transforms that are late


def _poses(motion: RecordedMotion) -> Iterator[tuple[int, bytes]]:
    """Where the camera was at each image, serialised, at the bag time of the image before: no image comes sooner."""
    from rclpy.serialization import serialize_message

    from scene_completion_ros.ros.messages import odometry_message

    before_ns = 0
    for stamp_ns, pose, image in motion.of_images():
        yield before_ns, serialize_message(odometry_message(pose, stamp_ns, motion.world, motion.named))
        before_ns = image.recorded.bag_stamp_ns


def replay_over_dds(
    reader: BagReader,
    topic: str,  # its image topic, raw or compressed
    *,
    # Where to write voxels, depth, the depth's CameraInfo and the map of the ground, at the bag times of their images,
    # and next to these; the transforms of the recording, too. The legend of the labels goes there at the time of the
    # first. Nothing in it depends on when it was written.
    output_bag: Path,
    # Called with every result, in the order of the node, in a thread while the node completes the next image.
    on_result: Callable[[ReplayResult], None],
    # Calibration to publish instead of the bag's CameraInfo; needed where the bag has none.
    camera: Camera | None = None,
    # Parameters of the node, by name, without `grid.frame`: a replay takes voxels to be in the frame of the image.
    # `sync.timeout` is at least 3 s.
    node_parameters: Mapping[str, object] | None = None,
    # Filled while the replay goes on, so that it can be read after an interruption.
    statistics: ReplayStatistics | None = None,
    # Query for all images; an image is then complete with that answer only. At the end the question
    # is taken back.
    words: Sequence[str] = (),
    motion: RecordedMotion | None = None,  # how the camera moved, which the node gets as odometry
    # Called with severity and text of each line that the node logs, with the recorded topic instead of the replayed.
    on_log: Callable[[str, str], None] = lambda *_: None,
) -> ReplayStatistics:
    """Publish one image topic of a bag to the node in lock step, and collect its voxels, depth and processing times.

    The next image is sent when the node has published the result of the last one, or announced its drop, so that the
    outcome does not depend on the speed of the machine. The node completes every image, or drops it for a reason that
    is counted. Raises BagError where there is no such image topic, or no usable CameraInfo and no camera was given;
    SceneCompletionError where the node did not start, ended, stopped answering, or publishes voxels in another frame
    than that of the images. What came before is in the output bag.
    """
    dds.use_shipped_profile()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")  # not for the rest of the network
    from scene_completion_ros.ros.replay.player import Player, Source

    reader.choose_image_topic(topic)
    namespace = f"/replay_{os.getpid()}"
    poses = f"{namespace}/camera_odometry"
    parameters = {"image.qos": "reliable", **(node_parameters or {})}
    source = Source(
        compressed=reader.topics[topic] == COMPRESSED_TYPE,
        camera=camera or reader.camera_for(topic),
        camera_info=None if camera else reader.camera_info(topic),
        odometry="" if motion is None else poses,
        frame_of=reader.frame_of,
    )
    if motion is not None:
        parameters |= {"odometry.topics": poses, "odometry.frame": motion.world}
    # What reaches an image must not depend on the speed of the machine.
    given = parameters.get("sync.timeout")
    parameters["sync.timeout"] = max(LOCK_STEP_PATIENCE_S, given if isinstance(given, float) else 0.0)
    parameters["image.transport"] = "compressed" if source.compressed else "raw"
    if camera is None:  # as `BagReader.camera_for` reads its CameraInfo
        parameters["image.rectified"] = reader.is_rectified(topic)

    def hear(severity: str, text: str) -> None:
        on_log(severity, re.sub(rf"{namespace}/{IMAGE}(/compressed)?", topic, text).replace(f"{namespace}/", ""))

    with ExitStack() as stack:
        started_s = time.perf_counter()
        node = stack.enter_context(NodeProcess(namespace, parameters, hear))
        bag = stack.enter_context(BagWriter(output_bag))
        write_transforms(reader, topic, bag)
        statistics = statistics or ReplayStatistics(topic)
        player = Player(node, source, bag, on_result, statistics, words)
        stack.callback(player.close)
        player.warm_up()
        statistics.startup_s = time.perf_counter() - started_s
        try:
            player.play(reader.messages([topic]), iter(()) if motion is None else _poses(motion))
        finally:
            statistics.peak_memory_mib = node.peak_memory_mib()
        node.stop()
        return statistics
