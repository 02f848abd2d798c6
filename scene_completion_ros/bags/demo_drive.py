"""Where the drive lies that comes with the package."""

from pathlib import Path

DEMO_DRIVE = Path(__file__).resolve().parents[1] / "demo_drive"  # a rosbag2 of camera images and calibration
