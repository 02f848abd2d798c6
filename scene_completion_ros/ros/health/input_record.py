"""What arrived from one camera while the node was active, and what did not: the facts that diagnostics judge."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros.messages import stamp_nanoseconds

RATE_WINDOW_S = 10.0
MOST_ARRIVALS = 2000  # kept to tell the rate: 200 Hz through the whole window


class Arrivals:
    """When messages of one topic arrived, on a steady clock.

    Attributes:
        count: How many arrived.
        last_s: When the last one did; None before the first.
        stamp_ns: Its stamp, nanoseconds.
    """

    def __init__(self) -> None:
        self.count = 0
        self.last_s: float | None = None
        self.stamp_ns: int | None = None
        self._recent_s: deque[float] = deque(maxlen=MOST_ARRIVALS)

    def add(self, now_s: float, stamp_ns: int) -> None:
        """One arrived now."""
        self.count += 1
        self.last_s, self.stamp_ns = now_s, stamp_ns
        self._recent_s.append(now_s)

    def age_s(self, now_s: float) -> float | None:
        """Seconds since the last one; None before the first."""
        return None if self.last_s is None else now_s - self.last_s

    def rate_hz(self, now_s: float) -> float:
        """Messages a second, over the last `RATE_WINDOW_S`; 0 of fewer than two."""
        recent = [time_s for time_s in self._recent_s if now_s - time_s <= RATE_WINDOW_S]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])


@dataclass(frozen=True)
class ImageShape:
    """What the newest image looked like.

    Attributes:
        width: Pixels; 0 where only decoding tells.
        height: Pixels; 0 where only decoding tells.
        encoding: As the message has it.
        bytes: Of its pixels or of the compressed file.
        frame_id: Its frame.
    """

    width: int
    height: int
    encoding: str
    bytes: int
    frame_id: str


@dataclass(frozen=True)
class Publishers:
    """Who publishes on a topic, from the graph.

    Attributes:
        types: Message type of each, such as "sensor_msgs/msg/Image".
        best_effort: How many of them offer best effort only.
    """

    types: tuple[str, ...] = ()
    best_effort: int = 0


class InputRecord:
    """The record of one camera in one activation; written and read in the executor's thread.

    Args:
        image_topic: Resolved topic of the images.
        image_type: Type asked for, such as "sensor_msgs/msg/Image".
        camera_info_topic: Resolved topic of the CameraInfo.
        reliable: Reliable images are asked for.
        since_s: When the node subscribed, on the steady clock of all times here.

    Attributes:
        images: Arrivals of images.
        camera_infos: Arrivals of CameraInfo messages, usable or not.
        shape: The newest image; None before the first.
        camera: The usable camera of the newest CameraInfo; None before the first.
        incompatible: By topic, the QoS policy by which a publisher does not match.
        lost: By topic, how many messages the middleware itself reported as lost.
    """

    def __init__(
        self, image_topic: str, image_type: str, camera_info_topic: str, *, reliable: bool, since_s: float
    ) -> None:
        self.image_topic, self.image_type = image_topic, image_type
        self.camera_info_topic = camera_info_topic
        self.reliable = reliable
        self.since_s = since_s
        self.images, self.camera_infos = Arrivals(), Arrivals()
        self.shape: ImageShape | None = None
        self.camera: Camera | None = None
        self.incompatible: dict[str, str] = {}
        self.lost: dict[str, int] = {}

    def image_arrived(self, message: Any, now_s: float) -> None:
        """Take note of a sensor_msgs/Image or CompressedImage."""
        header = message.header
        self.images.add(now_s, stamp_nanoseconds(header.stamp))
        encoding = getattr(message, "encoding", "") or getattr(message, "format", "")
        size = getattr(message, "width", 0), getattr(message, "height", 0)
        self.shape = ImageShape(*size, encoding, len(message.data), header.frame_id)

    def camera_info_arrived(self, message: Any, now_s: float) -> None:
        """Take note of a sensor_msgs/CameraInfo."""
        self.camera_infos.add(now_s, stamp_nanoseconds(message.header.stamp))
