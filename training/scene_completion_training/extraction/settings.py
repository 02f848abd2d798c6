"""Settings of an extraction, each a field with the option of the command that sets it; and reports."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from scene_completion_ros.errors import BagError, ConfigurationError
from scene_completion_ros.whole_files import write_whole

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
    """Settings of an extraction; the help of the options explains them."""

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


# What became of a bag: `report.json` next to its sequences, and a table over all bags.


REPORT_NAME = "report.json"
SCHEMA_VERSION = 1


@dataclass
class SequenceSummary:
    """One extracted sequence."""

    folder: str
    frames: int  # keyframes
    cameras: list[str]
    seconds: float  # time from first to last frame
    metres: float  # travelled distance, in units of the poses where the scale is unknown
    pose_source: str
    scale: str  # "recorded", "stereo", "odometry", "camera height" or "unknown"
    scale_support: str  # in words


@dataclass
class BagReport:
    """What became of a bag."""

    bag: str
    fingerprint: str  # hash of names, sizes and times of its files
    settings: str  # digest of the settings
    changed_settings: dict[str, Any] = field(default_factory=dict)
    status: str = "failed"  # "complete", or "failed" where nothing could be extracted
    sequences: list[SequenceSummary] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> number of images or frames that were left out
    problems: list[str] = field(default_factory=list)  # what went wrong, in words, with the cure
    warnings: list[str] = field(default_factory=list)  # what should be looked at
    losses: list[str] = field(default_factory=list)  # what a damaged recording lost
    seconds: float = 0.0
    defect: str = ""  # traceback, where the program and not the bag was at fault

    def write(self, file: Path) -> None:
        """Write it as JSON, complete or not at all; the folder is made where it is missing."""
        document = {"schema_version": SCHEMA_VERSION, **vars(self)}
        document["sequences"] = [asdict(sequence) for sequence in self.sequences]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(document, indent=1).encode())


def read_report(folder: Path) -> BagReport | None:
    """Read the report of a bag's folder; None where there is none that this program understands."""
    from scene_completion_ros.untrusted_files import read_json  # which NumPy comes with; the command line needs none

    try:
        document = read_json(folder / REPORT_NAME, BagError, cure="", kind=dict)
        if document.pop("schema_version") != SCHEMA_VERSION:
            return None
        document["sequences"] = [SequenceSummary(**entry) for entry in document["sequences"]]
        document["skipped"] = Counter(document["skipped"])
        document.pop("lost", None)  # earlier versions wrote it
        return BagReport(**document)
    except (BagError, TypeError, KeyError):
        return None


def summary_table(reports: Sequence[BagReport]) -> str:
    """Render one line a sequence, and below each bag what was left out and why."""
    lines = [f"{'bag':<32} {'sequence':<10} {'frames':>6} {'metres':>9}  {'poses':<12} scale"]
    for report in reports:
        name = _shortened(Path(report.bag).name, 32)
        if not report.sequences:
            lines.append(f"{name:<32} nothing extracted")
        for sequence in report.sequences:
            source = "sfm" if sequence.pose_source.startswith("structure") else "recorded"
            metres = f"{sequence.metres:.1f}" if sequence.scale != "unknown" else "?"
            scale = sequence.scale if sequence.scale == "recorded" else f"{sequence.scale} ({sequence.scale_support})"
            folder = _shortened(sequence.folder, 10)
            lines.append(f"{name:<32} {folder:<10} {sequence.frames:>6} {metres:>9}  {source:<12} {scale}")
        notes = [*report.problems, *report.warnings, *report.losses]
        notes += [f"{count} x {reason}" for reason, count in report.skipped.most_common()]
        lines += [f"  - {note}" for note in notes]
    return "\n".join(lines)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"…{text[1 - width :]}"
