"""What some tests of the doctor need, or go without."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from scene_completion_ros.diagnosis.check import Finding
from scene_completion_ros.diagnosis.checks import checks

HIDE_RCLPY = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] == "rclpy" else find(name, path, target)

PathFinder.find_spec = find_others
"""
needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="ROS 2 is not installed")


def finding_of(name: str, bundle: Path | None = None, **changed: float) -> Finding:
    (check,) = (check for check in checks(bundle) if check.name == name)
    return replace(check, **changed).run(bundle)  # type: ignore[arg-type]
