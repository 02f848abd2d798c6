"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has one core, and so has what it starts; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def shared_data_root() -> Path:
    """Folder of the real recordings: `SCENE_COMPLETION_DATA`, by default `../shared/data` beside the project."""
    return Path(os.environ.get("SCENE_COMPLETION_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings; skips where they are missing, fails instead when `REQUIRE_DATA=1`."""
    root = shared_data_root()
    if not root.is_dir():
        reason = f"real recordings not found at {root}: set SCENE_COMPLETION_DATA"
        if os.environ.get("REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return root.resolve()
