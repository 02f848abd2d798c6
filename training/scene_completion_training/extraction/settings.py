"""What an extraction is asked for: each setting is a field, and says which option of the command it is."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from scene_completion_ros.errors import ConfigurationError

PoseSource = Literal["auto", "recorded", "sfm"]
BY_SET = "--set"
EXTRACTION_VERSION = 1  # part of the digest: raised when the same settings give other sequences


def _option(default: Any, flag: str, meaning: str, metavar: str | None = None, **bounds: Any) -> Any:
    """A field that is an option of `scene-completion extract`; its help names no default."""
    described = {"flag": flag, "meaning": meaning, "metavar": metavar, "limits": None, "choices": None}
    return field(default=default, metadata=described | bounds)


def _set(default: Any, meaning: str, metavar: str, limits: tuple[float, float] | None = None) -> Any:
    """A field that is one of `--set KEY`."""
    return _option(default, BY_SET, meaning, metavar, limits=limits)


@dataclass(frozen=True)
class ExtractionSettings:
    """Settings of an extraction; the options say what each means."""

    image_topics: tuple[str, ...] = _option(
        (), "--image-topic", "image topic (repeat it for several cameras; default: all that have a CameraInfo)", "TOPIC"
    )
    calibration: tuple[tuple[str, str], ...] = _option(
        (),
        "--camera-file",
        "calibration that replaces the CameraInfo of an image topic, a file as of complete --camera",
        "TOPIC=FILE",
    )
    odometry_topic: str | None = _option(
        None,
        "--odometry-topic",
        "nav_msgs/Odometry (default: the only one); /odom=base_link names the frame of poses without child_frame_id",
        "TOPIC[=FRAME]",
    )
    lidar_topic: str | None = _option(None, "--lidar-topic", "PointCloud2 to keep (default: the only one)", "TOPIC")
    world_frame: str | None = _set(None, "frame of the poses (default: the topmost in tf)", "FRAME")
    ground_frame: str | None = _set(
        None,
        "frame whose z axis points up from the ground, such as map or base_footprint: how cameras stand is known by it",
        "FRAME",
    )
    ground_height: float = _set(0.0, "height of the ground in ground_frame", "M", (-1000.0, 1000.0))
    sync_tolerance_s: float = _set(0.005, "images of several cameras no further apart make one frame", "S", (0.0, 1.0))
    poses: PoseSource = _option(
        "auto",
        "--poses",
        "tf or odometry, structure from motion, or the first that works",
        choices=get_args(PoseSource),
    )
    camera_height: float | None = _option(
        None,
        "--camera-height",
        "height of the first camera above the ground, for the scale where nothing else gives it",
        "M",
        limits=(0.01, 100.0),
    )
    pose_gap_s: float = _set(0.2, "longest time between two poses that is interpolated", "S", (0.0, 3600.0))
    split_gap_s: float = _set(2.0, "a longer time without images or poses begins another sequence", "S", (0.0, 1e6))
    sfm_width: int = _set(800, "width of the images for structure from motion", "PIXELS", (160, 10_000))
    keyframe_metres: float = _set(0.3, "distance of keyframes", "M", (0.0, 1000.0))
    keyframe_degrees: float = _set(5.0, "or their angle", "DEG", (0.0, 180.0))
    min_frames: int = _set(5, "fewest keyframes of a sequence", "N", (2, 1_000_000))
    max_fov_degrees: float = _set(100.0, "widest view of a rectified fisheye", "DEG", (10.0, 160.0))
    ego_masks: tuple[tuple[str, str], ...] = _option(
        (), "--ego-mask", "image of the recorded size, white where this camera sees its own vehicle", "CAMERA=FILE"
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, limits = getattr(self, setting.name), setting.metadata["limits"]
            if value is not None and limits is not None and not limits[0] <= value <= limits[1]:
                what = f"{value} is outside {limits[0]:g} … {limits[1]:g}"
                flag = setting.metadata["flag"]
                raise ConfigurationError(what, where=f"{flag} {setting.name}" if flag == BY_SET else flag)

    def digest(self) -> str:
        """Short hash of everything that decides what is extracted."""
        content = [EXTRACTION_VERSION, asdict(self)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def changed(self) -> dict[str, object]:
        """The settings that are not the default, for reports."""
        settings = {setting.name: (getattr(self, setting.name), setting.default) for setting in fields(self)}
        return {name: value for name, (value, default) in settings.items() if value != default}
