"""Offline training of the student network: posed video in, student bundle out. Needs torch."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parent / "configs"
"""The configurations of trainings that are shipped."""
