"""What a replay yields: one result a frame, and statistics at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.images import decode_image
from scene_completion_ros.report.latency_plot import occupied_median


@dataclass
class ReplayResult:
    """One frame of the bag and what the node made of it."""

    index: int
    """Of the frame among the images of the bag's topic."""
    stamp_ns: int
    """Of the image's header."""
    frame_id: str
    image_message: Any
    """The image as the bag holds it."""
    voxels: NDArray[np.void]
    """Occupied voxels [N] in the optical frame, of `voxels.cloud.VOXEL_CLOUD_DTYPE`."""
    depth: NDArray[np.float32]
    """Metres along the optical axis [h, w], as `depth_camera` sees it; +inf too far, NaN unknown."""
    depth_camera: Camera
    latency_ms: float
    """From sending the image to receiving its voxels."""
    stages_ms: dict[str, float]
    """What the node says of its stages, see `topics.STAGES`; without those whose message got lost."""
    matches: NDArray[np.void] | None = None
    """Voxels that answer words [M] in the optical frame, `voxels.cloud.MATCH_CLOUD_DTYPE`; None if none was asked."""

    @cached_property
    def image_rgb(self) -> NDArray[np.uint8]:
        """The image, RGB [H, W, 3]; decoded when first asked for."""
        return decode_image(self.image_message)


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of a time in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        """Percentiles of some values; None where there are none."""
        if not values:
            return None
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        return cls(float(p50), float(p95), float(p99))


@dataclass
class ReplayStatistics:
    """What a replay amounts to."""

    topic: str
    frames_in: int = 0
    frames_out: int = 0
    frames_damaged: int = 0
    """Of those that went in, unreadable in the bag, so that nothing could be sent."""
    frames_empty: int = 0
    """Of those that came out, without a single occupied voxel."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Images that the node said it dropped, by reason."""
    lost_stamps_ns: list[int] = field(default_factory=list)
    """Stamps of the images that have no result, dropped ones included."""
    startup_s: float = 0.0
    """From the start of the node's process to its first answer."""
    duration_s: float = 0.0
    """From the first image to the last result; in lock step without `on_result` and the writing of the bag."""
    rate_hz: float = 0.0
    """Frames that came out, per second of `duration_s`."""
    latency_ms: dict[str, Percentiles | None] = field(default_factory=dict)
    """`end_to_end` (sent to received) and every stage of the node, see `topics.STAGES`."""
    occupied: list[int] = field(default_factory=list)
    """Occupied voxels of each frame that came out."""
    peak_memory_mib: float | None = None
    """Largest resident memory of the node's process."""
    shadow: dict[str, str] = field(default_factory=dict)
    """What the node says of the second student, where one ran behind the first."""
    node_log: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; of `occupied` the median."""
        values = asdict(self)
        values["dropped"] = dict(self.dropped)
        values["occupied_voxels_median"] = occupied_median(values.pop("occupied"))
        return values
