"""Play a bag through the running node in another process, over DDS, and collect what it publishes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.replay_node import NodeProcess
from scene_completion_ros.ros.replay_results import Percentiles, ReplayResult, ReplayStatistics

__all__ = ["Percentiles", "ReplayResult", "ReplayStatistics", "replay_over_dds"]

COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
RECTIFIED_TOPIC = "image_rect"


def replay_over_dds(
    reader: BagReader,
    topic: str,
    *,
    camera: Camera | None = None,
    output_bag: Path | None = None,
    on_result: Callable[[ReplayResult], None] | None = None,
    rate: float | None = None,
    timeout_s: float = 10.0,
    node_parameters: Mapping[str, object] | None = None,
    statistics: ReplayStatistics | None = None,
) -> ReplayStatistics:
    """Start the node, publish one image topic of a bag to it, and collect its voxels, depth and processing times.

    Args:
        reader: The open bag.
        topic: Its image topic, raw or compressed.
        camera: Calibration to publish instead of the bag's CameraInfo; needed where the bag has none.
        output_bag: Where to write voxels, depth and the depth's CameraInfo, at the bag times of their images, and the
            legend of the labels at that of the first.
        on_result: Called between frames with every result, in the order of arrival.
        rate: None plays in lock step: the next image is sent when the result of the last one is there (or given up),
            so that the outcome does not depend on the speed of the machine. A number plays in real time, that many
            times as fast as recorded; the node then drops what it cannot keep up with, and a slow `on_result` delays
            the next image.
        timeout_s: How long to wait for the result of an image.
        node_parameters: Parameters of the node, by name.
        statistics: Filled while the replay goes on, for whoever wants to see it after an interruption.

    Returns:
        Counts, rate, latencies, memory.

    Raises:
        BagError: There is no such image topic, or no usable CameraInfo and no camera was given.
        SceneCompletionError: The node did not start or ended during the replay; what came before is in the output bag.
    """
    if rate is not None and not rate > 0:
        raise SceneCompletionError(f"{rate} is not positive", where="rate", cure="1 is the speed of the recording")
    dds.use_shipped_profile()
    # The node is the replay's own: the rest of the network need not hear of it.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from scene_completion_ros.ros.replay_player import Player, Source

    reader.choose_image_topic(topic)
    source = Source(
        topic=topic,
        compressed=reader.topics[topic] == COMPRESSED_TYPE,
        camera=camera or reader.camera_for(topic),
        camera_info=None if camera else reader.camera_info(topic),
    )
    parameters = {"image_qos": "reliable", **(node_parameters or {})}
    parameters["image_transport"] = "compressed" if source.compressed else "raw"
    if camera is None:
        parameters["rectified"] = RECTIFIED_TOPIC in topic  # as `BagReader.camera_for` reads its CameraInfo
    namespace = f"/replay_{os.getpid()}"
    with ExitStack() as stack:
        started_s = time.perf_counter()
        node = stack.enter_context(NodeProcess(namespace, parameters))
        bag = stack.enter_context(BagWriter(output_bag)) if output_bag is not None else None
        statistics = statistics or ReplayStatistics(topic)
        player = Player(node, namespace, source, bag, on_result, statistics)
        stack.callback(player.close)
        player.warm_up()
        statistics.startup_s = time.perf_counter() - started_s
        try:
            player.play(reader.messages([topic]), rate, timeout_s)
        finally:
            statistics.peak_memory_mib = node.peak_memory_mib()
        node.stop()
        statistics.node_log = node.log()
        return statistics
