"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Tests start hundreds of processes, each of which would compile all it imports: torch alone takes ten seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has one core, and so has what it starts; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = (
    "training/stages/test_stages.py",
    "ros/test_lifecycle.py",
    "training/test_training.py",
    "commands/test_doctor.py",
    "training/street_world/test_drive_files.py",
    "ros/test_services.py",
    "training/stages/test_feature_stages.py",
    "ros/replay/test_lock_step.py",
    "training/street_world/test_town.py",
    "training/stages/test_supervised.py",
    "commands/test_replay.py",
    "ros/test_gpu_engine.py",
    "training/evaluation/test_evaluation.py",
    "ros/test_node.py",
    "training/gpu_export/test_gpu_export.py",
    "ros/test_faulty_cameras.py",
    "training/evaluation/test_stereo_calibration.py",
    "ros/replay/test_bag_replay.py",
    "training/street_world/test_render.py",
    "ros/health/test_diagnostics.py",
    "ros/test_fuzzed_messages.py",
    "ros/replay/test_playback.py",
    "ros/test_frames.py",
    "commands/test_replay_scores.py",
    "training/evaluation/test_stereo_truth.py",
    "ros/test_several_cameras.py",
    "test_packaging.py",
)
"""Files whose tests take longest, those that compute between those that wait for other processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left with it when the others have finished."""
    gone = [name for name in LONGEST if not (Path(__file__).parent / name).is_file()]
    if gone:
        raise pytest.UsageError(f"LONGEST in {__file__} names files that are not there: {', '.join(gone)}")
    place = {f"tests/{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


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
