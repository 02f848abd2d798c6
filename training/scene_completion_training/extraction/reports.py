"""What became of a bag: `report.json` beside its sequences, and a table over all bags."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import BagError
from scene_completion_ros.untrusted_files import read_json
from scene_completion_ros.whole_files import write_whole

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
    scale_support: str  # what speaks for the scale


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
