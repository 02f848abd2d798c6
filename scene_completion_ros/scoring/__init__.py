"""Scores of what was published, against ground truth in a folder or the LiDAR of the recording; no torch, no ROS."""
