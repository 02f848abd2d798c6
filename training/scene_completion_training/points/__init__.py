"""Scenes of points: what is read, learned and measured on clouds of rooms (CUA-O3D, MSM)."""
