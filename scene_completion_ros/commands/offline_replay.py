"""Complete the images of a recording in this process, without ROS."""

import resource
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scene_completion_ros.bags.reader import BagReader, ImageFrame
from scene_completion_ros.bags.writer import BagWriter, write_image, write_transforms
from scene_completion_ros.errors import ImageError
from scene_completion_ros.inference.completer import Completer, Completion, InOrder
from scene_completion_ros.inference.evidence import NETWORK_ALONE, Sources
from scene_completion_ros.messages.drop_reasons import DropReason, StampOrder
from scene_completion_ros.report.plots import latency_percentiles, occupied_median
from scene_completion_ros.sequences.from_bag import RecordedMotion
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_DTYPE, VOXEL_CLOUD_FIELDS, legend_json, voxels_to_cloud_array
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

VOXELS_TOPIC = "/scene_completion/voxels"
LEGEND_TOPIC = "/scene_completion/legend"
CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
LEGEND_TYPE = "std_msgs/msg/String"
_COUNTS = ("frames_in", "frames_out", "frames_empty", "frames_doubtful")


@dataclass
class OfflineStatistics:
    """What an offline replay amounts to."""

    topic: str
    frames_in: int = 0
    frames_out: int = 0
    frames_empty: int = 0
    frames_doubtful: int = 0  # of those that came out, see `Completion.warning`
    dropped: Counter[str] = field(default_factory=Counter)  # frames by reason
    duration_s: float = 0.0  # spent on completing; reading, writing and pictures not counted
    occupied: list[int] = field(default_factory=list)  # voxels of each frame that came out
    timings_ms: list[dict[str, float]] = field(default_factory=list)
    evidence: list[dict[str, float | str]] = field(default_factory=list)  # `Evidence.summary` of these frames

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
        return {
            **{name: getattr(self, name) for name in ("topic", *_COUNTS)},
            "dropped": dict(self.dropped),
            "duration_s": self.duration_s,
            "rate_hz": self.frames_out / self.duration_s if self.duration_s else 0.0,
            "latency_ms": latency_percentiles(self.timings_ms),
            "occupied_voxels_median": occupied_median(self.occupied),
            "peak_memory_mib": peak_kib / 1024,
        }


def replay_offline(
    reader: BagReader,
    topic: str,
    completer: Completer,
    *,
    sources: Sources = NETWORK_ALONE,  # what is known beside an image
    motion: RecordedMotion | None = None,  # how the camera moved; None where nobody knows
    # Recording to write the voxels to, at the bag times of the images, beside these, the transforms, and the legend of
    # the labels.
    output: BagWriter | None = None,
    on_result: Callable[[ImageFrame, Completion], None] | None = None,
    # Filled while the replay goes on, for whoever wants to see it after an interruption.
    statistics: OfflineStatistics | None = None,
) -> OfflineStatistics:
    """Complete every image of a topic; damaged, wrongly sized or late (`StampOrder`) ones are dropped and counted."""
    statistics = statistics or OfflineStatistics(topic)
    order, in_order = StampOrder(), InOrder(completer, sources)
    if output is not None:
        write_transforms(reader, topic, output)
    for frame in reader.images(topic):
        statistics.frames_in += 1
        if order.arrived(frame.stamp_ns) == "late":
            statistics.dropped[DropReason.WENT_BACK] += 1
            continue
        try:
            pose = "nothing says how the camera moves" if motion is None else motion.at(frame.stamp_ns)
            completion = in_order.complete(frame.image_rgb, frame.stamp_ns, pose)
        except ImageError as error:
            statistics.dropped[f"image {error.what}"] += 1
            continue
        if output is not None:
            _write(output, completion.voxels, frame, with_legend=not statistics.frames_out)
        statistics.frames_out += 1
        statistics.frames_empty += len(completion.voxels) == 0
        statistics.frames_doubtful += bool(completion.warning)
        statistics.duration_s += completion.timings_ms["total"] / 1e3
        statistics.occupied.append(len(completion.voxels))
        statistics.timings_ms.append(completion.timings_ms)
        statistics.evidence.append(completion.evidence.summary())
        if on_result is not None:
            on_result(frame, completion)
    undecodable = sum(count for reason, count in reader.skipped.items() if reason.startswith(f"{topic}: "))
    if undecodable:
        statistics.frames_in += undecodable
        statistics.dropped[DropReason.UNDECODABLE] += undecodable
    return statistics


def _write(output: BagWriter, voxels: SemanticVoxels, frame: ImageFrame, *, with_legend: bool) -> None:
    if with_legend:
        message = output.typestore.types[LEGEND_TYPE](data=legend_json(voxels.class_names, voxels.class_colours))
        output.write(LEGEND_TOPIC, LEGEND_TYPE, message, frame.recorded.stamp_ns, latched=True)
    write_image(frame.recorded, output)
    output.write(VOXELS_TOPIC, CLOUD_TYPE, cloud_message(output, voxels, frame.frame_id), frame.recorded.stamp_ns)


def cloud_message(writer: BagWriter, voxels: SemanticVoxels, frame_id: str) -> Any:
    """Occupied voxels as a ``sensor_msgs/PointCloud2`` of 24-byte points, of the types of a recording's `writer`."""
    types = writer.typestore.types
    points = voxels_to_cloud_array(voxels)
    stamp = types["builtin_interfaces/msg/Time"](*divmod(voxels.stamp_ns, 1_000_000_000))
    fields = [
        types["sensor_msgs/msg/PointField"](name=name, offset=offset, datatype=datatype, count=count)
        for name, offset, datatype, count in VOXEL_CLOUD_FIELDS
    ]
    return types[CLOUD_TYPE](
        header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id),
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=VOXEL_CLOUD_DTYPE.itemsize,
        row_step=VOXEL_CLOUD_DTYPE.itemsize * len(points),
        data=points.view(np.uint8).reshape(-1),
        is_dense=True,
    )
