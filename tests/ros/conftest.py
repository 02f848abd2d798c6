"""A ROS graph of its own for every test module, and what nodes under test need."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from tests.checkout import next_domain
from tests.inference.small_bundle import make_small_bundle

Start = Callable[..., Any]


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, None]:
    """Skip modules that cannot be imported without ROS 2; with `REQUIRE_DATA=1` they fail, as everywhere else."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and "ModuleNotFoundError" in str(report.longrepr) and os.environ.get("REQUIRE_DATA") != "1":
        try:
            import rclpy  # noqa: F401 - where it is installed, it is something else that is missing
        except ImportError as error:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 1, f"Skipped: ROS 2 is not installed: {error}")


@pytest.fixture(scope="module", autouse=True)
def ros_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep this module's nodes apart from all others, on this machine and elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", next_domain())
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_log")))
        patch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")  # as strict as Humble
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
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
        "origin: [1.0, -3.2, -1.6]\nvoxel_size: 0.2\nshape: [32, 32, 16]\n"
        "grid_from_camera: [0, 0, 1, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 1]\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def completer(bundle_folder: Path, grid_file: Path) -> Callable[..., Completer]:
    """Makes what the node is compared with: the model of a camera, with that student and that grid."""
    grid, grid_from_camera = read_grid(grid_file)
    student = StudentBundle.load(bundle_folder)

    def make(camera: Camera, *, bundle: StudentBundle = student, **settings: Any) -> Completer:
        return Completer(
            bundle, camera, **{"grid": grid, "grid_from_camera": grid_from_camera, "threads": 1, **settings}
        )

    return make


@contextmanager
def starting(bundle_folder: Path, grid_file: Path, folder: Path) -> Iterator[Start]:
    """Starts nodes with cameras before them, and ends them at last.

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
            log, module = folder / f"log_{len(started)}", Path(script) if script else None
            return start_completion_node(graph, log, bundle, grid_file, *arguments, script=module)

        started.append(kind(launch, **further))
        return started[-1]

    try:
        yield start
    finally:
        for running in started:
            running.close()


@pytest.fixture
def start(bundle_folder: Path, grid_file: Path, tmp_path: Path) -> Iterator[Start]:
    """See `starting`; for one test."""
    with starting(bundle_folder, grid_file, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_once(bundle_folder: Path, grid_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """See `starting`; for all tests of a module."""
    with starting(bundle_folder, grid_file, tmp_path_factory.mktemp("started")) as start:
        yield start


@pytest.fixture
def graph() -> Iterator[Any]:
    """The graph of one test."""
    from tests.ros.graph import Graph

    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """While the first file exists, a held node waits; the second one is there once it does."""
    held_while, reached = tmp_path / "hold", tmp_path / "reached"
    monkeypatch.setenv("HELD_WHILE", str(held_while))
    monkeypatch.setenv("HELD_REACHED", str(reached))
    return held_while, reached
