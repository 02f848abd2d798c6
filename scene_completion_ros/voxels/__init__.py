"""Completed voxels: what they are, their cloud, their files."""
