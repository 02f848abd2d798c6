"""What some tests of the doctor need, or go without."""

from importlib.util import find_spec

import pytest

HIDE_RCLPY = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] == "rclpy" else find(name, path, target)

PathFinder.find_spec = find_others
"""
needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="ROS 2 is not installed")
