"""For test modules that need ROS 2: its wheels or a sourced distribution."""

from __future__ import annotations

import os

import pytest


def require_rclpy() -> None:
    """Skip the module where rclpy is not installed; fail instead when `REQUIRE_DATA=1`, as everywhere else."""
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        if os.environ.get("REQUIRE_DATA") == "1":
            raise
        pytest.skip(f"ROS 2 is not installed: {error}", allow_module_level=True)
