"""Offline training of the student network: posed video in, student bundle out. Needs torch."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# The configurations that are shipped: within the package where it is installed, next to it in a checkout.
CONFIGS = next(folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir())
