"""Fixtures shared by all tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scene_completion_ros.ros import dds
from tests.checkout import there

# Tests start hundreds of processes, each of which would compile all it imports: torch alone takes ten seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has one core, and so has what it starts; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
dds.use_shipped_profile()  # a process reads it with its first participant, whichever test makes that one

TESTS = Path(__file__).resolve().parent

SLOW = (
    "inference/gpu",
    "report/test_page_in_browser.py",
    "ros/test_fuzzed_messages.py",
    "test_documentation_site.py",
    "test_packaging.py",
    "test_untrusted_readers.py",
    "training/commands/test_evaluate_points.py",
    "training/commands/test_sscbench.py",
    "training/evaluation/test_deployed.py",
    "training/evaluation/test_segmentation.py",
    "training/evaluation/test_view_consistency.py",
    "training/experiments",
    "training/test_export_again.py",
    "training/networks/test_trunks.py",
    "training/points/test_point_agglomeration.py",
    "training/points/test_text_teacher.py",
    "training/stages/test_completion.py",
    "training/stages/test_features.py",
    "training/stages/test_masked_scene.py",
    "training/test_published.py",
    "worlds",
)
"""What `make test-slow` adds: trainings of experiments, worlds, stand-ins of GPUs, packages, documents, fuzzing.

Whatever README.md promises is also tested by files that are not among them.
"""

LONGEST = ("training", "ros", "commands")
"""Folders whose tests train networks or start nodes. The former compute while the latter wait for each other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow. What takes longest begins first, a file of each such folder in turn, small files last."""
    files: dict[str, list[str]] = {}

    def place(item: pytest.Item) -> tuple[bool, int, int]:
        file = item.nodeid.partition("::")[0]
        folder = file.split("/")[1]
        if file.startswith("tests/training/experiments/"):
            return (False, 0, 0)
        if folder not in LONGEST:
            return (True, 0, 0)
        known = files.setdefault(folder, [])
        if file not in known[-1:]:
            known.append(file)
        return (False, len(known), LONGEST.index(folder))

    items.sort(key=place)
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)


def is_slow(path: Path) -> bool:
    return path.relative_to(TESTS).as_posix().startswith(SLOW)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Slow files are not imported where their tests would all be deselected."""
    deselected = config.getoption("markexpr") == "not slow" and collection_path.suffix == ".py"
    return True if deselected and is_slow(collection_path) else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings in `SCENE_COMPLETION_DATA`, by default `../shared/data` next to the project."""
    root = Path(os.environ.get("SCENE_COMPLETION_DATA", TESTS.parent / ".." / "shared" / "data"))
    return there(root, f"real recordings not found at {root}: set SCENE_COMPLETION_DATA").resolve()


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """A context of rclpy for nodes of this process."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    yield context
    context.try_shutdown()
    context.destroy()
