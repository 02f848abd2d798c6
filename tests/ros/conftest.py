"""A ROS graph of its own for every test module, and what nodes under test need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
def start(bundle_folder: Path, grid_file: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts nodes with cameras before them, and ends them after the test.

    Called with arguments of the node's command line, the `kind` of `CameraToVoxels`, another `bundle`, a `script`
    around the node, and what that kind takes besides.
    """
    from tests.ros.camera_to_voxels import CameraToVoxels
    from tests.ros.graph import Graph, NodeUnderTest, start_completion_node

    started: list[CameraToVoxels] = []

    def start(
        *arguments: str,
        kind: type[CameraToVoxels] = CameraToVoxels,
        bundle: Path = bundle_folder,
        script: str | None = None,
        **further: Any,
    ) -> CameraToVoxels:
        def launch(graph: Graph) -> NodeUnderTest:
            log, module = tmp_path / f"log_{len(started)}", Path(script) if script else None
            return start_completion_node(graph, log, bundle, grid_file, *arguments, script=module)

        started.append(kind(launch, **further))
        return started[-1]

    yield start
    for running in started:
        running.close()


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """While the first file exists, a held node waits; the second one is there once it does."""
    held_while, reached = tmp_path / "hold", tmp_path / "reached"
    monkeypatch.setenv("HELD_WHILE", str(held_while))
    monkeypatch.setenv("HELD_REACHED", str(reached))
    return held_while, reached


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], LaunchFile]:
    """Reads a launch file of the package, by its name, without `launch`."""
    return lambda name: LaunchFile(LAUNCH / name, monkeypatch)
