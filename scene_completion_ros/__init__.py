"""Completed semantic occupancy from camera images, for ROS 2."""

__version__ = "0.1.0"
