"""This checkout, and Python processes that import it and nothing older."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def with_this_checkout(**variables: str) -> dict[str, str]:
    """The environment with this checkout before whatever is on the path, such as a sourced distribution.

    A ``PYTHONPATH`` among the variables that are given comes first.
    """
    path = os.pathsep.join(filter(None, (variables.get("PYTHONPATH"), str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **variables, "PYTHONPATH": path}


def run_python(
    *arguments: str | Path, cwd: Path = ROOT, timeout_s: float = 300.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end; what it printed, as text."""
    command = [sys.executable, *map(str, arguments)]
    environment = with_this_checkout(**variables)
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
