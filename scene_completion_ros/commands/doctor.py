"""Check this installation and say what to fix.

Looks at Python and the required packages, at ROS 2 and its environment, and at shared memory, GPU, CPU and the student
bundle. Tries whether large images get from one process to another. Completes images of the bundled drive for three
seconds. Every check is ok, warning, failed or not applicable; what is not ok comes with its cure. The exit code is 1 if
a check failed.

With --json the standard output is one object: version, python, counts by status, seconds, and checks, each with name,
status, found, cure and details.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scene_completion_ros.diagnosis.check import Finding

COLUMN = 15  # where the names begin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion doctor``."""
    meaning = "folder or name of a student to look at (default: kitti_student)"
    parser.add_argument("--bundle", type=Path, metavar="DIR", help=meaning)
    parser.add_argument("--json", action="store_true", help="print one JSON object for programs")


def run(args: argparse.Namespace) -> int:
    """Run all checks; the exit code is 1 if one failed."""
    import json
    import platform
    import time

    import scene_completion_ros
    from scene_completion_ros.diagnosis.check import Status
    from scene_completion_ros.diagnosis.checks import checks

    begun_s = time.monotonic()
    findings: dict[str, Finding] = {}
    for check in checks(args.bundle):
        finding = findings[check.name] = check.run(args.bundle)
        if not args.json:
            say(as_text(check.name, finding))
    counts = {status.value: sum(f.status is status for f in findings.values()) for status in Status}
    seconds = time.monotonic() - begun_s
    if args.json:
        report = {
            "version": scene_completion_ros.__version__,
            "python": {"version": platform.python_version(), "executable": sys.executable},
            "seconds": round(seconds, 1),
            "counts": counts,
            "checks": [
                {"name": name} | vars(finding) | {"status": finding.status.value} for name, finding in findings.items()
            ],
        }
        print(json.dumps(report, indent=2))
    else:
        say(f"\n{', '.join(f'{count} {status}' for status, count in counts.items())}; {seconds:.0f} s")
        bundle = f" --bundle {args.bundle}" if args.bundle else ""
        say(f"next: {next_step(findings, bundle)}")
    return 1 if counts[Status.FAILED.value] else 0


def next_step(findings: "Mapping[str, Finding]", bundle: str) -> str:
    """What to do after these findings; `bundle`: the option that names the student, if any."""
    from scene_completion_ros.diagnosis.check import Status

    failed = next((name for name, finding in findings.items() if finding.status is Status.FAILED), None)
    if failed is not None:
        return f"cure what failed, from the top; it begins with {failed}"
    if findings["ROS 2"].status is not Status.OK:
        return f"scene-completion complete IMAGE --camera FILE --output out{bundle} works without ROS 2"
    return f"scene-completion replay BAG --output out{bundle}; without BAG it is the bundled drive"


def as_text(name: str, finding: "Finding") -> str:
    """What people read of a check: status, name and what was found, and below it the cure."""
    lines = [f"{finding.status.value:<{COLUMN}}{name}: {finding.found}"]
    if finding.cure:
        lines.append(f"{'':<{COLUMN}}-> {finding.cure}")
    return "\n".join(lines)


def say(text: str) -> None:
    """Print at once, and whatever the encoding of the terminal is."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)
