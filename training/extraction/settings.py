"""What an extraction is asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Literal

from scene_completion_ros.errors import ConfigurationError

PoseSource = Literal["auto", "recorded", "sfm"]
EXTRACTION_VERSION = 1
"""Part of the digest: raised when the same settings give other sequences."""


@dataclass(frozen=True)
class ExtractionSettings:
    """Settings of an extraction.

    Attributes:
        image_topics: Topics to use; all with a calibration where empty.
        calibration: Pairs of image topic and calibration file that replaces its CameraInfo.
        odometry_topic: nav_msgs/Odometry to use; the only one where None.
        world_frame: Frame to take as the world; the topmost in tf where None.
        lidar_topic: PointCloud2 to attach; the only one where None.
        poses: "recorded" from tf or odometry, "sfm" from the images, "auto" the first that works.
        pose_gap_s: Largest distance in time of the two poses between which is interpolated.
        split_gap_s: A longer gap between images begins another sequence.
        sync_tolerance_s: Images of several cameras no further apart make one frame.
        keyframe_metres: Distance from the last keyframe that makes a keyframe …
        keyframe_degrees: … or this angle.
        min_frames: Sequences with fewer keyframes are left out.
        rectify: Whether images are resampled to undistorted pinhole cameras, stereo pairs to parallel ones.
        max_fov_degrees: Widest view of a rectified fisheye.
        ego_masks: Pairs of camera name and image file, white where the camera sees its own vehicle.
        estimate_ego_masks: Whether to find these pixels by their not changing.
        camera_height: Metres of the first camera above the ground: gives the scale where nothing else does.
        sfm_width: Width that images are reduced to for structure from motion, pixels.
    """

    image_topics: tuple[str, ...] = ()
    calibration: tuple[tuple[str, str], ...] = ()
    odometry_topic: str | None = None
    world_frame: str | None = None
    lidar_topic: str | None = None
    poses: PoseSource = "auto"
    pose_gap_s: float = 0.2
    split_gap_s: float = 2.0
    sync_tolerance_s: float = 0.005
    keyframe_metres: float = 0.3
    keyframe_degrees: float = 5.0
    min_frames: int = 5
    rectify: bool = True
    max_fov_degrees: float = 100.0
    ego_masks: tuple[tuple[str, str], ...] = ()
    estimate_ego_masks: bool = False
    camera_height: float | None = None
    sfm_width: int = 800

    def __post_init__(self) -> None:
        limits = {
            "pose_gap_s": (0.0, 3600.0),
            "split_gap_s": (0.0, 1e6),
            "sync_tolerance_s": (0.0, 1.0),
            "keyframe_metres": (0.0, 1000.0),
            "keyframe_degrees": (0.0, 180.0),
            "min_frames": (2, 1_000_000),
            "max_fov_degrees": (10.0, 160.0),
            "camera_height": (0.01, 100.0),
            "sfm_width": (160, 10_000),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigurationError(f"{value} is outside {low:g} … {high:g}", where=f"--{name.replace('_', '-')}")

    def digest(self) -> str:
        """Short hash of everything that decides what is extracted."""
        content = [EXTRACTION_VERSION, asdict(self)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def changed(self) -> dict[str, object]:
        """The settings that are not the default, for reports."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
