"""The doctor, in environments that are sound, and in ones that are broken in one way each."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from scene_completion_ros.commands import doctor as command
from scene_completion_ros.ros import dds
from tests.checkout import make_cuda_driver, next_domain, run_python
from tests.inference.small_bundle import make_small_bundle

HIDE_RCLPY = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] == "rclpy" else find(name, path, target)

PathFinder.find_spec = find_others
"""
needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="ROS 2 is not installed")


@pytest.fixture(autouse=True)
def _sound_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ROS graph of its own with the shipped profile, and nothing else that could disturb."""
    for name in (dds.PROFILE_VARIABLE, dds.OLD_PROFILE_VARIABLE, "FASTDDS_BUILTIN_TRANSPORTS", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ROS_LOCALHOST_ONLY", "RMW_IMPLEMENTATION", "ROS_SECURITY_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_DOMAIN_ID", next_domain())
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_log")))
    monkeypatch.setenv(dds.profile_variable(), str(dds.profile_path()))


@pytest.fixture
def in_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the search path of this process and of those it starts."""
    folder = tmp_path / "in_front"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))
    return folder


def doctor(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "scene_completion_ros.cli", "doctor", *words, cwd=cwd, **variables)


def printed(output: str) -> dict[str, tuple[str, str]]:
    """Status and text by name of what the doctor printed."""
    pattern = re.compile(r"^(ok|warning|failed) +(.+?): (.*(?:\n +->.*)?)$", re.MULTILINE)
    found = {match[2]: (match[1], match[3]) for match in pattern.finditer(output)}
    assert list(found) == ["packages", "ROS 2", "shared memory", "GPU", "student"]
    assert all((status == "ok") == ("\n" not in text) for status, text in found.values())  # otherwise it has a cure
    return found


@needs_ros
def test_nothing_fails_in_a_sound_environment(tmp_path: Path) -> None:
    done = doctor(cwd=tmp_path)
    found = printed(done.stdout)
    assert done.returncode == 0, done.stdout
    assert (found["packages"][0], found["ROS 2"][0], found["student"][0]) == ("ok", "ok", "ok")
    tested = re.search(r"(\d+) voxels occupied after \d+ ms with \w+", found["student"][1])
    assert tested and int(tested[1]) > 1000


def test_without_rclpy_the_rest_is_checked(tmp_path: Path, in_front: Path) -> None:
    (in_front / "sitecustomize.py").write_text(HIDE_RCLPY, encoding="utf-8")
    done = doctor(cwd=tmp_path)
    found = printed(done.stdout)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert found["ROS 2"][0] == "warning"
    assert "`complete` and `replay --offline` work" in found["ROS 2"][1]
    assert "pip install '.[ros]'" in found["ROS 2"][1]
    assert "voxels occupied" in found["student"][1]


@needs_ros
def test_whatever_is_broken_every_check_has_a_finding(tmp_path: Path, in_front: Path) -> None:
    (in_front / "numba.py").write_text("raise ValueError('two\\nlines')", encoding="utf-8")
    (in_front / "rclpy.py").write_text("import os; os.abort()", encoding="utf-8")
    done = doctor("--bundle", "missing…", cwd=tmp_path, PYTHONIOENCODING="ascii")
    found = printed(done.stdout)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert "Traceback" not in done.stdout
    assert {name for name, (status, _) in found.items() if status == "failed"} == {"ROS 2", "student"}
    assert "no node can start: " in found["ROS 2"][1]
    assert "ValueError: two lines" in found["student"][1]


@pytest.mark.parametrize(
    ("source", "limit_s", "found"),
    [
        ("import time; time.sleep(3600)", 3.0, "no node can start within 3 s"),
        ("import os; os._exit(3)", 300.0, "no node can start: status 3"),
        ("raise ImportError('no good')", 300.0, "no node can start: ImportError: no good"),
    ],
)
def test_a_node_that_crashes_or_hangs_is_a_finding(
    in_front: Path, monkeypatch: pytest.MonkeyPatch, source: str, limit_s: float, found: str
) -> None:
    (in_front / "rclpy.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(command, "LIMIT_S", limit_s)
    finding = command.check_ros()
    assert (finding.status, finding.found) == ("failed", found)
    assert finding.cure


def test_missing_and_old_packages_are_named(in_front: Path) -> None:
    needed = "Requires-Dist: no-such-thing>=2\nRequires-Dist: numba>=0.57\nRequires-Dist: numpy\n"
    ours = f"Requires-Python: >=3.99\n{needed}"
    for name, number, more in (("scene_completion_ros", "9", ours), ("numba", "0.56.4", "")):
        folder = in_front / f"{name}-{number}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{more}"
        (folder / "METADATA").write_text(text, encoding="utf-8")
    assert command.check_packages().found.endswith(", >=3.99 is needed")
    (folder,) = in_front.glob("scene_completion_ros-*")
    (folder / "METADATA").write_text((folder / "METADATA").read_text().replace("3.99", "3.10"), encoding="utf-8")
    finding = command.check_packages()
    assert finding.status == "failed"
    assert finding.found == "no-such-thing is missing (>=2 is needed), numba 0.56.4 (>=0.57 is needed)"
    assert finding.cure == f"{sys.executable} -m pip install 'no-such-thing>=2' 'numba>=0.57'"


@pytest.mark.parametrize(
    ("folder", "found"), [("/dev/nothing", "No such file"), ("/proc", "cannot be written"), ("/dev/shm", "free")]
)
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, folder: str, found: str) -> None:
    monkeypatch.setattr(command, "SHARED_MEMORY", Path(folder))
    finding = command.check_shared_memory()
    assert found in finding.found
    assert (finding.status == "failed") == (folder != "/dev/shm")


def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LEAST_FREE_BYTES", 2**62)
    finding = command.check_shared_memory()
    assert finding.status == "warning" and "docker run --shm-size" in finding.cure
    monkeypatch.setattr(command, "find_spec", lambda name: None)  # without rclpy nothing sends images
    assert command.check_shared_memory().status == "ok"


def test_wheels_and_a_sourced_distribution_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dds, "rclpy_version", lambda: ("9.1.2", True))
    monkeypatch.setattr(dds, "sourced_prefixes", lambda: ["/opt/ros/jazzy"])
    finding = command.check_ros()
    assert finding.status == "failed" and "the sourced /opt/ros/jazzy: their libraries get mixed" in finding.found


def test_a_shell_without_a_profile_is_given_the_shipped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LEAST_FREE_BYTES", 0)
    assert command.check_shared_memory().status == "ok"
    monkeypatch.delenv(dds.profile_variable())
    finding = command.check_shared_memory()
    assert finding.status == "warning" and "best-effort readers" in finding.found
    assert finding.cure == f"export {dds.profile_variable()}={dds.profile_path()}"
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")  # which takes no such profile
    assert command.check_shared_memory().status == "ok"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("error", [0, 100])
def test_what_the_cuda_driver_answers(tmp_path: Path, error: int) -> None:
    """A driver library that sees two devices called "G", or none."""
    script = "from scene_completion_ros.commands.doctor import check_gpu; print(*check_gpu())"
    answer = run_python("-c", script, LD_LIBRARY_PATH=make_cuda_driver(tmp_path, 2, error)).stdout
    assert answer.startswith("warning ")
    part = "error 100" if error else "G, G, but pycuda is not installed"
    assert part in answer and "the CPU" in answer


@needs_ros
def test_a_missing_rmw_is_not_a_missing_ros(tmp_path: Path) -> None:
    done = doctor(cwd=tmp_path, RMW_IMPLEMENTATION="rmw_nowhere_cpp", ROS_DISTRO="jazzy")
    status, text = printed(done.stdout)["ROS 2"]
    assert (done.returncode, status) == (1, "failed")
    assert "no node can start: " in text and "rmw_nowhere_cpp" in text
    assert "unset RMW_IMPLEMENTATION" in text
    assert "ros-jazzy-rmw-nowhere-cpp" in text


def student_of(folder: Path) -> command.Finding:
    return command.checked(lambda: command.check_student(folder))


def test_a_damaged_bundle(tmp_path: Path) -> None:
    assert student_of(tmp_path / "nowhere").found == f"{tmp_path / 'nowhere'}: no student.json in it"
    bundle = make_small_bundle(tmp_path)
    content = bytearray((tmp_path / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "head.safetensors").write_bytes(content)
    finding = student_of(tmp_path)
    assert finding.status == "failed"
    assert "sha256" in finding.found
    assert "again" in finding.cure
    bundle.save(tmp_path, b"no graph")
    finding = student_of(tmp_path)
    assert (finding.status, finding.cure) == ("failed", "Export the bundle again.")
    assert "encoder.onnx" in finding.found


@pytest.mark.parametrize(("threshold", "found"), [(1.0, "it finds nothing"), (0.5, "not calibrated")])
def test_a_student_that_works_and_needs_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: float, found: str
) -> None:
    make_small_bundle(tmp_path, threshold=threshold)
    command.run(argparse.Namespace(bundle=tmp_path))
    status, text = printed(capsys.readouterr().out)["student"]
    assert status == "warning" and found in text
