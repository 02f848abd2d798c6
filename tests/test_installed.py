"""The package as installed, by pip or in a workspace (quick: `colcon test --pytest-args tests/test_installed.py`)."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import scene_completion_ros
from scene_completion_ros.cli import COMMANDS

PACKAGE = "scene_completion_ros"
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from scene_completion_ros.cli import main; sys.exit(main())"


def workspace() -> Path:
    """Install prefix of the package in a colcon workspace."""
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        if Path(prefix, "share/ament_index/resource_index/packages", PACKAGE).is_file():
            return Path(prefix)
    pytest.skip("not in a colcon workspace")


def test_version_of_the_distribution_is_that_of_the_package() -> None:
    assert version(PACKAGE) == scene_completion_ros.__version__


def test_help_lists_every_command_without_torch() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("executable", ["scene-completion", "scene_completion_node"])
def test_workspace_offers_executables_to_ros2_run(executable: str) -> None:
    assert os.access(workspace() / "lib" / PACKAGE / executable, os.X_OK)


@pytest.mark.parametrize(
    "pattern",
    ["package.xml", "launch/*.launch.py", "config/*.yaml", "config/*.rviz", "config/*.json", "config/security/*.xml"],
)
def test_workspace_shares_files(pattern: str) -> None:
    assert list((workspace() / "share" / PACKAGE).glob(pattern))
