"""Measurements of speed, memory and quality; never part of a timed test."""
