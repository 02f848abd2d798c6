"""What becomes of the answers to an image: recorded, counted, handed on."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import serialize_message

from scene_completion_ros.bags.reader import BagMessage
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.geometry.camera_files import camera_from_camera_info
from scene_completion_ros.messages.images import decode_published_depth
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.replay.answers import SentImage
from scene_completion_ros.ros.replay.results import Percentiles, ReplayResult, ReplayStatistics
from scene_completion_ros.voxels.cloud import cloud_array_from_message

RECORDED_TYPES = {
    topics.VOXELS: "sensor_msgs/msg/PointCloud2",
    topics.DEPTH: "sensor_msgs/msg/Image",
    topics.DEPTH_CAMERA_INFO: "sensor_msgs/msg/CameraInfo",
}
"""Answers to an image, in the order in which they are recorded, whatever the order in which they arrive."""
LEGEND_TYPE = "std_msgs/msg/String"


class ResultCollector:
    """Takes complete results, in the order of the node; of a recording played several times it keeps the first pass.

    Args:
        bag: Where answers are written; None writes nothing.
        on_result: Called with every result of the first pass.
        statistics: Filled.
    """

    def __init__(
        self,
        bag: BagWriter | None,
        on_result: Callable[[ReplayResult], None] | None,
        statistics: ReplayStatistics,
    ) -> None:
        self._bag, self._on_result, self._statistics = bag, on_result, statistics
        # Milliseconds; arrays, for a recording may be played for days.
        self._stage_times = {stage: array("d") for stage in topics.STAGES}
        self._end_to_end = array("d")

    def take(self, sent: SentImage, source: BagMessage, stages_ms: Mapping[str, float], legend: Any) -> None:
        """Take the result of an image.

        Args:
            sent: With all its answers.
            source: The image as recorded.
            stages_ms: Its stage times as far as they arrived.
            legend: The node's legend.
        """
        statistics = self._statistics
        voxels: NDArray[np.void] = cloud_array_from_message(sent.answers[topics.VOXELS])
        first_pass = statistics.passes == 0
        if self._bag is not None and first_pass:
            if not statistics.frames_out:
                _record(self._bag, topics.LEGEND, LEGEND_TYPE, legend, source.stamp_ns)
            for topic, kind in RECORDED_TYPES.items():
                _record(self._bag, topic, kind, sent.answers[topic], source.stamp_ns)
        self._end_to_end.append(sent.latency_ms)
        for stage, milliseconds in stages_ms.items():
            self._stage_times[stage].append(milliseconds)
        statistics.frames_out += 1
        statistics.frames_empty += len(voxels) == 0
        if not first_pass:
            return
        statistics.occupied.append(len(voxels))
        if self._on_result is not None:
            self._on_result(
                ReplayResult(
                    index=sent.index,
                    stamp_ns=sent.stamp_ns,
                    frame_id=sent.answers[topics.VOXELS].header.frame_id,
                    image_message=source.message,
                    voxels=voxels,
                    depth=decode_published_depth(sent.answers[topics.DEPTH]),
                    depth_camera=camera_from_camera_info(sent.answers[topics.DEPTH_CAMERA_INFO]),
                    latency_ms=sent.latency_ms,
                    stages_ms=dict(stages_ms),
                )
            )

    def finish(self, duration_s: float) -> None:
        """Write times and rate into the statistics.

        Args:
            duration_s: From the first image to the last result.
        """
        statistics = self._statistics
        statistics.duration_s = max(duration_s, 0.0)
        statistics.rate_hz = statistics.frames_out / statistics.duration_s if statistics.duration_s else 0.0
        statistics.latency_ms = {"end_to_end": Percentiles.of(self._end_to_end)}
        statistics.latency_ms |= {stage: Percentiles.of(times) for stage, times in self._stage_times.items()}


def _record(bag: BagWriter, topic: str, kind: str, message: Any, stamp_ns: int) -> None:
    """Write a message. Serialised anew: the middleware leaves whatever was in memory in the bytes between fields."""
    canonical = bag.typestore.deserialize_cdr(serialize_message(message), kind)
    bag.write(topic.replace("~", f"/{topics.NODE_NAME}"), kind, canonical, stamp_ns, latched=topic == topics.LEGEND)
