"""A ROS graph of its own for every test module, and what nodes under test need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scene_completion_ros.ros import dds
from tests.inference.small_bundle import make_small_bundle
from tests.ros.launch_files import LAUNCH, LaunchFile
from tests.ros_domain import next_domain


@pytest.fixture(scope="module", autouse=True)
def ros_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep this module's nodes apart from all others, on this machine and elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", next_domain())
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_log")))
        patch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")  # as strict as Humble
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        variables: dict[str, str] = {}
        dds.use_shipped_profile(variables)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student with random weights, which finds a few hundred voxels of five classes in the grid below."""
    folder = tmp_path_factory.mktemp("student") / "bundle"
    make_small_bundle(folder, threshold=0.1, classes=5)
    return folder


@pytest.fixture(scope="session")
def grid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small grid just in front of the camera, so that a frame costs little."""
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    path.write_text(
        "origin: [2.0, -3.2, -1.6]\nvoxel_size: 0.2\nshape: [32, 32, 16]\n"
        "grid_from_camera: [0, 0, 1, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 1]\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LaunchFile]:
    """Reads a launch file of the package, by its name, without `launch`."""
    return lambda name: LaunchFile(LAUNCH / name, monkeypatch)
