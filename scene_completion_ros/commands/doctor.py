"""Check this installation and say what to fix.

Looks at Python and the required packages, at ROS 2 and its environment, and at shared memory, GPU, CPU and the student
bundle. Completes images of the bundled drive for three seconds. Every check is ok, warning, failed or not applicable;
what is not ok comes with its cure. The exit code is 1 if a check failed.

With --json the standard output is one object: version, python, counts by status, seconds, and checks, each with name,
status, found, cure and details.
"""

import argparse
import io
import sys
from pathlib import Path


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

    from scene_completion_ros import __version__
    from scene_completion_ros.diagnosis import STATUSES, Finding, checks

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)  # whatever a terminal can show, and at once
    begun_s = time.monotonic()
    findings: dict[str, Finding] = {}
    for check in checks(args.bundle):
        finding = findings[check.name] = check.run(args.bundle)
        if not args.json:
            print(f"{finding.status:<15}{check.name}: {finding.found}")
            print(f"{'':<15}-> {finding.cure}\n" if finding.cure else "", end="")
    counts = {status: sum(finding.status == status for finding in findings.values()) for status in STATUSES}
    seconds = time.monotonic() - begun_s
    if args.json:
        python = {"version": platform.python_version(), "executable": sys.executable}
        report = {"version": __version__, "python": python, "seconds": round(seconds, 1), "counts": counts}
        report["checks"] = [{"name": name} | vars(finding) for name, finding in findings.items()]
        print(json.dumps(report, indent=2))
    else:
        bundle = f" --bundle {args.bundle}" if args.bundle else ""
        step = f"scene-completion replay BAG --output out{bundle}; without BAG it is the bundled drive"
        if findings["ROS 2"].status != "ok":
            step = f"scene-completion complete IMAGE --camera FILE --output out{bundle} works without ROS 2"
        if first := next((name for name, finding in findings.items() if finding.status == "failed"), None):
            step = f"cure what failed, from the top; it begins with {first}"
        print(f"\n{', '.join(f'{count} {status}' for status, count in counts.items())}; {seconds:.0f} s")
        print(f"next: {step}")
    return 1 if counts["failed"] else 0
