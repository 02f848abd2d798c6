"""What the package declares, and that a wheel and a colcon workspace made of it hold what a robot needs."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import scene_completion_ros
from tests.checkout import ROOT, installed_with, required

PACKAGE = "scene_completion_ros"
PINS = (ROOT / "constraints" / "pins.txt").read_text(encoding="utf-8").splitlines()
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MADE_AT_THE_ROOT = ("build", "demo_output", "dist", "install", "log", "replay", "runs")
MADE_ANYWHERE = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "*.egg-info", ".*_cache")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout to build from."""

    def not_sources(folder: str, names: list[str]) -> set[str]:
        return set(MADE_ANYWHERE(folder, names)) | (set(MADE_AT_THE_ROOT) if Path(folder) == ROOT else set())

    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("workspace") / "src", symlinks=True, ignore=not_sources))


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment |= {"COLCON_HOME": str(cwd / ".colcon"), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_manifest_is_valid_and_agrees_with_the_package() -> None:
    manifest = parse_package(str(ROOT / "package.xml"))
    assert manifest.package_format == 3
    assert manifest.name == PACKAGE
    assert manifest.version == scene_completion_ros.__version__
    assert manifest.get_build_type() == "ament_python"
    assert manifest.licenses == ["Apache-2.0", "CC-BY-NC-SA-3.0"]
    assert all((ROOT / licence.file).is_file() for licence in manifest.licenses)
    assert {url.type for url in manifest.urls} == {"website", "repository", "bugtracker"}


def test_manifest_names_scipy_and_each_ros_package_that_is_imported() -> None:
    of_ros = re.compile(
        r"^\s*(?:from|import) (\w+_(?:msgs|srvs|interfaces)|rclpy|tf2_ros|launch|launch_ros|scipy)\b", re.M
    )
    sources = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "training").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    found = {name for source in sources for name in of_ros.findall(source.read_text(encoding="utf-8"))}
    named = {dependency.name for dependency in parse_package(str(ROOT / "package.xml")).exec_depends}
    assert "rclpy" in found
    assert {{"tf2_ros": "tf2_ros_py", "scipy": "python3-scipy"}.get(name, name) for name in found} <= named


def test_what_the_demo_installs_is_free_of_torch() -> None:
    installed = installed_with("ros")
    assert {"numpy", "rosbags", "ros-rclpy", "ros-sensor-msgs"} <= installed
    assert not {name for name in installed if "torch" in name or name.startswith("nvidia") or name == "lightning"}


def test_training_needs_one_torch_and_each_supported_python_has_pins() -> None:
    (torch,) = (needed for needed in required(PACKAGE, "train") if needed.name == "torch")
    assert str(torch.specifier) == "==2.13.0"
    assert tuple(re.findall(r"3\.\d+", PINS[0])) == PYTHONS


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_requirement_but_torch_is_pinned(python: str) -> None:
    read = [Requirement(line) for line in PINS[1:]]
    held = [pin for pin in read if not pin.marker or pin.marker.evaluate({"python_version": python})]
    assert len({pin.name for pin in held}) == len(held)
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in held}
    direct = required(PACKAGE, "ros", "train", "test", "lint")
    assert {canonicalize_name(requirement.name) for requirement in direct} - set(pinned) == {"torch"}
    assert all(
        requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "2.13.0"))
        for requirement in direct
    )
    # No gigabytes of CUDA: of NVIDIA's packages the compiler alone.
    assert {name for name in pinned if name == "torch" or name.startswith("nvidia")} == {"nvidia-cuda-nvrtc"}


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    """As `python -m build --no-isolation` makes it: by the backend of pyproject.toml."""
    output = sources.parent / "wheel"
    output.mkdir()
    call = f"import setuptools.build_meta as b; print(b.build_wheel({str(output)!r}))"
    return output / run(sys.executable, "-c", call, cwd=sources).splitlines()[-1]


def test_wheel_holds_what_a_robot_needs_and_the_python_index_takes_it(wheel: Path) -> None:
    assert wheel.stat().st_size < 128 << 20  # PyPI takes 100 MB without asking
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    held = {name.removeprefix(f"{PACKAGE}/") for name in names if name.startswith(f"{PACKAGE}/")}
    for file in (
        "py.typed",
        "models/LICENSE",
        "models/kitti_student/student.json",
        "models/kitti_student/encoder.onnx",
        "inference/gpu/voxels.cu",
        "ros/fastdds_shm.xml",
    ):
        assert file in held
    assert any(name.startswith("demo_drive/") and name.endswith((".mcap", ".db3")) for name in held)
    assert {"scene_completion_training/__init__.py", "scene_completion_training/configs/teacher.yaml"} <= names
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/", "training/"))}
    shared = f"{wheel.name.removesuffix('-py3-none-any.whl')}.data/data/share/{PACKAGE}"
    assert {f"{shared}/package.xml", f"{shared}/launch/scene_completion.launch.py"} <= names
    for folder in ("models", "demo_drive"):
        files = {path.relative_to(ROOT / PACKAGE) for path in (ROOT / PACKAGE / folder).rglob("*") if path.is_file()}
        left_out = {file.as_posix() for file in files if "__pycache__" not in file.parts} - held
        of_a_training = {f"models/{name}/weights.safetensors" for name in ("street", "room")}  # and too large
        assert left_out <= of_a_training


@pytest.mark.timeout(300)
def test_wheel_runs_outside_of_a_checkout(wheel: Path, tmp_path: Path) -> None:
    """Installed into one empty folder and run in another one, it finds its student and its drive."""
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--target", installed)
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=empty)
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import scene_completion_ros, scene_completion_training\n"
        "from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle\n"
        "from scene_completion_ros.bags.reader import DEMO_DRIVE\n"
        "from scene_completion_ros.bags.reader import BagReader\n"
        "with BagReader(DEMO_DRIVE) as reader: images = sum(reader.counts.values())\n"
        "print(scene_completion_ros.__file__, StudentBundle.load(DEFAULT_BUNDLE).encoder_path, images > 0)"
    )
    *files, images = run(sys.executable, "-c", program, cwd=empty).split()
    assert all(Path(file).is_relative_to(installed) for file in files)
    assert images == "True"


def test_colcon_builds_and_tests_it_as_an_ament_package(sources: Path) -> None:
    workspace, near = sources.parent, Path(sys.executable).with_name("colcon")
    colcon = near if near.is_file() else "colcon"
    assert "(ros.ament_python)" in run(colcon, "list", "--base-paths", "src", cwd=workspace)

    run(colcon, "build", "--base-paths", "src", cwd=workspace)
    quick = ("--pytest-args", "tests/test_installed.py")
    run(colcon, "test", "--base-paths", "src", "--return-code-on-test-failure", *quick, cwd=workspace)
    summary = run(colcon, "test-result", cwd=workspace)
    tests, skipped = map(int, re.search(r"(\d+) tests, 0 errors, 0 failures, (\d+) skipped", summary).groups())  # type: ignore[union-attr]
    assert tests >= 10
    assert skipped == 0


def test_tests_that_the_makefile_names_are_there() -> None:
    """pytest runs nothing at all where one of its files is missing, and the kernels would not be compiled."""
    named = set(re.findall(r"tests/[\w/]+\.py", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert len(named) > 5 and not [name for name in named if not (ROOT / name).is_file()]
