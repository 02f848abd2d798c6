"""Settings of an extraction."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExtractionSettings:
    """Settings of an extraction; the help of the options of `scene-completion extract` explains them."""

    image_topics: tuple[str, ...] = ()
    camera_files: tuple[tuple[str, str], ...] = ()  # (topic, file)
    odometry_topic: str | None = None
    lidar_topic: str | None = None
    world_frame: str | None = None
    ground_frame: str | None = None
    ground_height: float = 0.0  # metres
    sync_tolerance: float = 0.005  # seconds
    keyframe_metres: float = 0.3
    ego_masks: tuple[tuple[str, str], ...] = ()  # (camera, file)
