"""Posed image sequences: the folder format and its sources (rosbags, KITTI, KITTI-360)."""
