"""The doctor, in environments that are sound, and in ones that are broken in one way each."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from scene_completion_ros.commands import doctor as command
from scene_completion_ros.commands.doctor import STATUSES, Finding, checks
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
NAMES = [check.name for check in checks(None)]
OF_ROS = {"RMW", "discovery", "optional packages", "/dev/shm", "Fast DDS profile"}
needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="ROS 2 is not installed")
Add = Callable[..., None]


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
def extra_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Puts files in front of the search path of this process and of those it starts."""
    folder = tmp_path / "in_front"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))

    def add(**sources: str) -> None:
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source, encoding="utf-8")

    return add


def finding_of(name: str, bundle: Path | None = None) -> Finding:
    (check,) = (check for check in checks(bundle) if check.name == name)
    return check.run(bundle)


def doctor(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "scene_completion_ros.cli", "doctor", *words, cwd=cwd, **variables)


def printed(output: str) -> dict[str, tuple[str, str]]:
    """Status and text by name of what the doctor printed for people."""
    pattern = re.compile(r"^(ok|warning|failed|not applicable) +(.+?): (.*(?:\n +->.*)?)$", re.MULTILINE)
    found = {match[2]: (match[1], match[3]) for match in pattern.finditer(output)}
    assert list(found) == NAMES
    return found


@needs_ros
def test_nothing_fails_in_a_sound_environment(tmp_path: Path) -> None:
    done = doctor("--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert done.returncode == 0, done.stdout
    assert list(found) == NAMES
    sound = ("packages", "ROS 2", "RMW", "Fast DDS profile")
    assert {name: found[name]["status"] for name in sound} == dict.fromkeys(sound, "ok")
    for check in report["checks"]:
        assert set(check) == {"name", "status", "found", "cure"}
        assert check["found"]
        assert bool(check["cure"]) == (check["status"] in ("warning", "failed")), check
    statuses = [check["status"] for check in report["checks"]]
    assert report["counts"] == {status: statuses.count(status) for status in STATUSES}
    tested = re.match(
        r"[\d.]+ Hz with \w+ over \d+ images; ms: (.*); (\d+) voxels occupied", found["self-test"]["found"]
    )
    assert tested and int(tested[2]) > 1000
    assert re.sub(r" \d+", "", tested[1]) == "resample, encode, query, march, assemble, label, total"


def test_without_rclpy_the_rest_is_checked(tmp_path: Path, extra_modules: Add) -> None:
    extra_modules(sitecustomize=HIDE_RCLPY)
    done = doctor(cwd=tmp_path)
    found = printed(done.stdout)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert {name for name, (_, text) in found.items() if text == "rclpy is not there"} == OF_ROS
    assert {found[name][0] for name in OF_ROS} == {"not applicable"}
    assert found["ROS 2"][0] == "warning"
    assert "pip install '.[ros]'" in found["ROS 2"][1]
    assert " Hz with " in found["self-test"][1]
    step = "next: scene-completion complete IMAGE --camera FILE --output out works without ROS 2"
    assert done.stdout.splitlines()[-1] == step


@needs_ros
def test_whatever_is_broken_every_check_has_a_finding(tmp_path: Path, extra_modules: Add) -> None:
    extra_modules(numpy="raise ImportError('no good')", rclpy="import os; os.abort()")
    variables = {dds.profile_variable(): str(tmp_path / "nowhere.xml"), "PYTHONIOENCODING": "ascii"}
    done = doctor("--bundle", "missing…", cwd=tmp_path, **variables)
    found = printed(done.stdout)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert "Traceback" not in done.stdout
    failed = {"ROS 2", "RMW", "Fast DDS profile", "numba", "bundle", "self-test"}
    assert {name for name, (status, _) in found.items() if status == "failed"} == failed
    assert all("\n" in found[name][1] for name in failed)  # with a cure
    assert done.stdout.splitlines()[-1] == "next: cure what failed, from the top; it begins with ROS 2"
    assert "SIGABRT" in found["ROS 2"][1]
    assert "ImportError: no good" in found["numba"][1]


@pytest.mark.usefixtures("extra_modules")
def test_missing_and_old_packages_are_named(tmp_path: Path) -> None:
    needed = "Requires-Dist: no-such-thing>=2\nRequires-Dist: numba>=0.57\nRequires-Dist: numpy\n"
    ours = f"Requires-Python: >=3.99\n{needed}"
    for name, number, more in (("scene_completion_ros", "9", ours), ("numba", "0.56.4", "")):
        folder = tmp_path / "in_front" / f"{name}-{number}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{more}"
        (folder / "METADATA").write_text(text, encoding="utf-8")
    assert command.check_packages().found.endswith(", >=3.99 is needed")
    (folder,) = (tmp_path / "in_front").glob("scene_completion_ros-*")
    (folder / "METADATA").write_text((folder / "METADATA").read_text().replace("3.99", "3.10"), encoding="utf-8")
    finding = command.check_packages()
    assert finding.status == "failed"
    assert finding.found == "no-such-thing is missing (>=2 is needed), numba 0.56.4 (>=0.57 is needed)"
    assert finding.cure == f"{sys.executable} -m pip install 'no-such-thing>=2' 'numba>=0.57'"


def test_packages_that_a_sourced_distribution_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert command.check_optional().status == "not applicable"
    for name in ("rclpy", "cv_bridge", "launch_ros"):
        (index / name).touch()
    finding = command.check_optional()
    assert (finding.status, finding.cure) == ("warning", "sudo apt install ros-jazzy-tf2-ros ros-jazzy-image-transport")
    assert "tf2_ros is not installed: voxels stay in the frame of their image" in finding.found


@pytest.mark.parametrize(
    ("folder", "found"), [("/dev/nothing", "No such file"), ("/proc", "cannot be written"), ("/dev/shm", "free")]
)
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, folder: str, found: str) -> None:
    monkeypatch.setattr(command, "SHARED_MEMORY", Path(folder))
    finding = command.check_shared_memory()
    assert found in finding.found
    assert (finding.status == "failed") == (folder != "/dev/shm")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("error", [0, 100])
def test_what_the_cuda_driver_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """A driver library that sees two devices called "G", or none."""
    monkeypatch.setenv("LD_LIBRARY_PATH", make_cuda_driver(tmp_path, 2, error))
    finding = finding_of("GPU")
    assert finding.status == "warning"
    part = "error 100" if error else "G, G, but pycuda is not installed"
    assert part in finding.found and "the CPU" in finding.found


@needs_ros
def test_a_missing_rmw_is_not_a_missing_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_nowhere_cpp")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert finding_of("ROS 2").status == "ok"
    finding = finding_of("RMW")
    assert finding.status == "failed"
    assert "rmw_nowhere_cpp" in finding.found
    assert "unset RMW_IMPLEMENTATION" in finding.cure
    assert "ros-jazzy-rmw-nowhere-cpp" in finding.cure
    assert finding_of("Fast DDS profile").status == "not applicable"


@needs_ros
@pytest.mark.parametrize(
    ("domain", "reach", "status"),
    [
        ("7", "SUBNET", "ok"),
        ("", "LOCALHOST", "ok"),
        ("150", "SUBNET", "warning"),
        ("7", "OFF", "warning"),
        ("7", "localhost", "warning"),
        ("233", "SUBNET", "failed"),
        ("seven", "SUBNET", "failed"),
    ],
)
def test_the_discovery_variables(monkeypatch: pytest.MonkeyPatch, domain: str, reach: str, status: str) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", reach)
    finding = finding_of("discovery")
    assert finding.status == status
    assert ("export " in finding.cure) == (status != "ok")
    if domain in ("150", "233", "seven"):  # what is called wrong is what no node can start with
        assert (finding_of("RMW").status == "ok") == (status != "failed")


@needs_ros
@pytest.mark.parametrize(
    ("replaced", "status", "found"),
    [
        ({}, "ok", "33.55 MB"),
        ({"segment_size": "2764799"}, "failed", "2.76 MB, a raw image"),
        ({"type": "UDPv4"}, "failed", "0.00 MB, a raw image of 1280x720 has 2.76 MB"),
        ({"segment_size": "large"}, "failed", "no profile"),
        ({"profiles": ""}, "failed", "is_default_profile"),
    ],
)
def test_a_profile_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: dict[str, str], status: str, found: str
) -> None:
    text = dds.profile_path().read_text(encoding="utf-8")
    for name, value in replaced.items():
        text, count = re.subn(f"<{name}>.*?</{name}>", f"<{name}>{value}</{name}>", text, flags=re.DOTALL)
        assert count
    path = tmp_path / "profile.xml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv(dds.profile_variable(), str(path))
    finding = finding_of("Fast DDS profile")
    assert finding.status == status
    assert found in finding.found
    assert (str(dds.profile_path()) in finding.cure) == (status != "ok")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time; time.sleep(60)", "gave no answer within 3 s"),
        ("import os; os.abort()", "its process ended by SIGABRT"),
        ("import os; print('\\x1b[31mError: late\\x1b[0m', flush=True); os._exit(3)", "status 3: Error: late"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_what_crashes_or_hangs_is_a_finding(
    extra_modules: Add, monkeypatch: pytest.MonkeyPatch, source: str, found: str
) -> None:
    extra_modules(rclpy=source)
    if "sleep" in source:
        monkeypatch.setattr(command, "LIMIT_S", 3.0)
    finding = finding_of("ROS 2")
    assert finding.status == "failed"
    assert finding.found.endswith(found)
    assert finding.cure


def test_a_damaged_bundle(tmp_path: Path) -> None:
    assert finding_of("bundle", tmp_path / "nowhere").found == f"{tmp_path / 'nowhere'}: no student.json in it"
    bundle = make_small_bundle(tmp_path)
    content = bytearray((tmp_path / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "head.safetensors").write_bytes(content)
    finding = finding_of("bundle", tmp_path)
    assert finding.status == "failed"
    assert "sha256" in finding.found
    assert "again" in finding.cure
    bundle.save(tmp_path, b"no graph")
    assert finding_of("bundle", tmp_path).status == "warning"  # as it stands it is sound, and not calibrated
    finding = finding_of("self-test", tmp_path)
    assert (finding.status, finding.cure) == ("failed", "Export the bundle again.")
    assert "encoder.onnx" in finding.found


def test_a_student_that_finds_nothing_in_the_demo_drive(tmp_path: Path) -> None:
    make_small_bundle(tmp_path, threshold=1.0)
    finding = finding_of("self-test", tmp_path)
    assert finding.status == "warning"
    assert "finds nothing" in finding.found
