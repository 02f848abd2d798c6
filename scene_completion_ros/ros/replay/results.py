"""How a recording is played, and what that yields: one result a frame, and statistics at the end. Needs no rclpy."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.images import decode_image


@dataclass
class ReplayResult:
    """One frame of the bag and what the node made of it."""

    stamp_ns: int  # of the image's header
    frame_id: str
    image_message: Any  # the image as the bag holds it
    voxels: NDArray[np.void]  # occupied voxels [N] in the optical frame, of `voxels.cloud.VOXEL_CLOUD_DTYPE`
    # Metres along the optical axis [h, w], as `depth_camera` sees it; +inf too far, NaN unknown.
    depth: NDArray[np.float32]
    depth_camera: Camera
    latency_ms: float  # from sending the image to receiving its voxels
    # Times of the stages, see `topics.STAGES`; without those whose message got lost.
    stages_ms: dict[str, float]
    # Voxels that answer words [M] in the optical frame, `voxels.cloud.MATCH_CLOUD_DTYPE`; None without a query.
    matches: NDArray[np.void] | None = None
    evidence: Mapping[str, float | str] = field(default_factory=dict)  # `Completion.summary`; empty where that got lost

    @cached_property
    def image_rgb(self) -> NDArray[np.uint8]:
        """The image, RGB [H, W, 3]; decoded at the first access."""
        return decode_image(self.image_message)


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Percentiles of times in milliseconds; None where there are none."""
    shares = (50, 95, 99)
    return {f"p{share}": float(np.percentile(values, share)) for share in shares} if values else None


@dataclass
class ReplayStatistics:
    """What a replay amounts to."""

    topic: str
    frames_in: int = 0
    frames_out: int = 0
    frames_damaged: int = 0  # of those that went in, unreadable in the bag, so that nothing could be sent
    frames_empty: int = 0  # of those that came out, without a single occupied voxel
    dropped: Counter[str] = field(default_factory=Counter)  # images that the node dropped, by reason
    # Stamps of the images that have no result, dropped ones included.
    lost_stamps_ns: list[int] = field(default_factory=list)
    startup_s: float = 0.0  # from the start of the node's process to its first answer
    # From the first image to the last result, without `on_result` and the writing of the bag.
    duration_s: float = 0.0
    rate_hz: float = 0.0  # frames that came out, per second of `duration_s`
    # `end_to_end` (sent to received) and every stage of the node, see `topics.STAGES`.
    latency_ms: dict[str, dict[str, float] | None] = field(default_factory=dict)
    occupied: list[int] = field(default_factory=list)  # occupied voxels of each frame that came out
    peak_memory_mib: float | None = None  # largest resident memory of the node's process
    evidence: list[Mapping[str, float | str]] = field(default_factory=list)  # of each frame that came out

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; of `occupied` the median, and without `evidence`."""
        values = asdict(self)
        del values["evidence"]
        values["dropped"] = dict(self.dropped)
        values["occupied_voxels_median"] = float(np.median(values.pop("occupied") or 0.0))
        return values
