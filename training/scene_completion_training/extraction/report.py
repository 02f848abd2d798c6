"""What became of a bag: `report.json` next to its sequences, and a table over all bags."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scene_completion_ros.plain_text import printable
from scene_completion_ros.whole_files import write_whole

REPORT_NAME = "report.json"
SCHEMA_VERSION = 2


@dataclass
class SequenceSummary:
    """One extracted sequence."""

    folder: str
    frames: int  # keyframes
    cameras: list[str]
    seconds: float  # time from first to last frame
    metres: float  # travelled distance
    pose_source: str


@dataclass
class BagReport:
    """What became of a bag."""

    bag: str
    settings: dict[str, object]
    sequences: list[SequenceSummary] = field(default_factory=list)  # empty where the extraction failed
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> number of images or frames that were left out
    problems: list[str] = field(default_factory=list)  # what went wrong, with the cure
    warnings: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)  # what a damaged recording lost
    seconds: float = 0.0

    def write(self, file: Path) -> None:
        """Write it as JSON, complete or not at all."""
        document = {"schema_version": SCHEMA_VERSION, **vars(self)}
        document["sequences"] = [asdict(sequence) for sequence in self.sequences]
        write_whole(file, json.dumps(document, indent=1).encode())


def summary_table(reports: Sequence[BagReport]) -> str:
    """Render one line a sequence, and below each bag what was left out and why."""
    lines = [f"{'bag':<32} {'sequence':<10} {'frames':>6} {'metres':>9}  poses"]
    for report in reports:
        name = printable(Path(report.bag).name)
        if not report.sequences:
            lines.append(f"{name:<32} nothing extracted")
        lines += [
            f"{name:<32} {sequence.folder:<10} {sequence.frames:>6} {sequence.metres:>9.1f}  {sequence.pose_source}"
            for sequence in report.sequences
        ]
        notes = [*report.problems, *report.warnings, *report.losses]
        notes += [f"{count} x {reason}" for reason, count in report.skipped.most_common()]
        lines += [f"  - {printable(note)}" for note in notes]
    return "\n".join(lines)
