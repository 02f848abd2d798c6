"""Rays, sampling and volume rendering."""
