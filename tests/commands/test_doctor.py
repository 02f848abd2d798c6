"""The doctor in environments that are sound, and in ones that are broken in one way each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from scene_completion_ros import cli
from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
from scene_completion_ros.diagnosis import fast_dds, machine, packages, ros_environment, student
from scene_completion_ros.diagnosis.checks import checks
from scene_completion_ros.diagnosis.child import ProbeError, run_probe
from scene_completion_ros.diagnosis.findings import Check, Finding, Status
from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle
from scene_completion_ros.ros import dds
from tests.inference.small_bundle import make_small_bundle
from tests.ros_domain import next_domain

ROOT = Path(__file__).resolve().parents[2]
NAMES = [check.name for check in checks(None, DEMO_DRIVE)]
OF_ROS = [
    "ROS 2 not mixed",
    "RMW",
    "discovery",
    "tf2_ros",
    "cv_bridge",
    "launch_ros",
    "image_transport",
    "Fast DDS profile",
    "large messages",
]
HIDE_RCLPY = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] == "rclpy" else find(name, path, target)

PathFinder.find_spec = find_others
"""

needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="ROS 2 is not installed")
needs_wheels = pytest.mark.skipif(not ros_environment.rclpy_version()[1], reason="ROS 2 is not there as wheels")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def sound_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
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
def extra_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts files in front of the search path of this process and of those it starts."""
    folder = tmp_path / "in_front"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))

    def add(**sources: str) -> None:
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source, encoding="utf-8")

    return add


@pytest.fixture
def distribution_in_front(extra_modules: object, tmp_path: Path) -> Callable[[str, str, str], None]:
    def add(name: str, version: str, more: str = "") -> None:
        folder = tmp_path / "in_front" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"
        (folder / "METADATA").write_text(text, encoding="utf-8")

    return add


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Chooses the shipped profile with some of its texts replaced."""

    def choose(**replaced: str) -> Path:
        text = dds.profile_path().read_text(encoding="utf-8")
        for name, value in replaced.items():
            changed = re.sub(rf"<{name}>.*?</{name}>", f"<{name}>{value}</{name}>", text)
            assert changed != text
            text = changed
        path = tmp_path / "profile.xml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv(dds.profile_variable(), str(path))
        return path

    return choose


def doctor(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    search_path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
    return subprocess.run(
        [sys.executable, "-m", "scene_completion_ros.cli", "doctor", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": search_path, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def printed(output: str) -> dict[str, tuple[str, str]]:
    """Status and text by name of what the doctor printed for people."""
    pattern = re.compile(r"^(ok|warning|failed|not applicable) +(.+?): (.*(?:\n +->.*)?)$", re.MULTILINE)
    return {match[2]: (match[1], match[3]) for match in pattern.finditer(output)}


@needs_ros
def test_nothing_fails_in_a_sound_environment(tmp_path: Path) -> None:
    done = doctor("--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert done.returncode == 0, done.stdout
    assert list(found) == NAMES
    assert {name: found[name]["status"] for name in ("Python", "packages", "ROS 2", "RMW", "Fast DDS profile")} == {
        "Python": "ok",
        "packages": "ok",
        "ROS 2": "ok",
        "RMW": "ok",
        "Fast DDS profile": "ok",
    }
    for check in report["checks"]:
        assert set(check) == {"name", "status", "found", "cure", "details"}
        assert check["found"]
        assert bool(check["cure"]) == (check["status"] in ("warning", "failed")), check
    statuses = [check["status"] for check in report["checks"]]
    assert report["counts"] == {status.value: statuses.count(status.value) for status in Status}
    assert found["large messages"]["details"]["as_is"]["received"] >= 5
    assert found["bundle"]["details"]["classes"] == list(load_default_bundle().class_names)
    details = found["self-test"]["details"]
    assert details["finite"]
    assert details["fewest_occupied"] > 1000
    assert {"resample", "encode", "query", "march", "assemble", "label", "total"} == set(details["stages_ms"])
    assert found["self-test"]["found"].startswith(f"{details['rate_hz']:.1f} Hz with {details['engine']}")


def test_without_rclpy_the_rest_is_checked(tmp_path: Path, extra_modules: Callable[..., None]) -> None:
    extra_modules(sitecustomize=HIDE_RCLPY)
    done = doctor(cwd=tmp_path)
    found = printed(done.stdout)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert list(found) == NAMES
    assert {name for name, (_, text) in found.items() if text == "rclpy is not there"} == set(OF_ROS)
    assert {found[name][0] for name in OF_ROS} == {"not applicable"}
    assert found["ROS 2"][0] == "warning"
    assert "-> pip install '.[ros]'" in found["ROS 2"][1]
    assert " Hz with " in found["self-test"][1]


@needs_ros
def test_whatever_is_broken_every_check_says_something(tmp_path: Path, extra_modules: Callable[..., None]) -> None:
    extra_modules(numpy="raise ImportError('no good')", rclpy="import os; os.abort()")
    variables = {dds.profile_variable(): str(tmp_path / "nowhere.xml"), "PYTHONIOENCODING": "ascii"}
    done = doctor("--bundle", "missing…", cwd=tmp_path, **variables)
    found = printed(done.stdout)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert list(found) == NAMES
    assert "Traceback" not in done.stdout
    failed = {"ROS 2", "RMW", "large messages", "Fast DDS profile", "numba", "bundle", "self-test"}
    assert {name for name, (status, _) in found.items() if status == "failed"} == failed
    assert all("\n" in found[name][1] for name in failed)  # with a cure
    assert "SIGABRT" in found["ROS 2"][1]
    assert "ImportError: no good" in found["numba"][1]


def test_help_and_imports_need_nothing_heavy() -> None:
    heavy = ("torch", "rclpy", "numba", "openvino", "onnxruntime", "cv2", "rosbags", "numpy", "packaging")
    code = (
        "import sys\n"
        f"for name in {heavy!r}: sys.modules[name] = None\n"
        "from scene_completion_ros.cli import main\n"
        "import scene_completion_ros.diagnosis.checks, scene_completion_ros.diagnosis.probes\n"
        "main(['doctor', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: scene-completion doctor" in done.stdout


def test_an_installation_offers_the_commands_of_a_checkout() -> None:
    installed = entry_points(group=cli.GROUP)
    assert {entry.name: entry.value for entry in installed if entry.name in cli.COMMANDS} == cli.COMMANDS


def test_a_check_that_raises_has_failed() -> None:
    def divide() -> Finding:
        return Finding(Status.OK, str(1 / 0))

    def load() -> Finding:
        raise BundleError("is empty", where="student.json", cure="Fill it")

    assert Check("x", divide, "Count").run() == Finding(Status.FAILED, "ZeroDivisionError: division by zero", "Count")
    assert Check("x", load, "Count").run() == Finding(Status.FAILED, "student.json: is empty", "Fill it")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import time; time.sleep(60)", "no answer within 3 s"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os; print('\\x1b[31mError: late\\x1b[0m', flush=True); os._exit(3)", "status 3: Error: late"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise ValueError", "^ValueError"),
    ],
)
def test_what_happens_in_a_probe_is_told(extra_modules: Callable[..., None], source: str, message: str) -> None:
    extra_modules(broken=source)
    with pytest.raises(ProbeError, match=message):
        run_probe("module", "broken", limit_s=3.0 if "sleep" in source else 60.0)


# Python and packages


@pytest.mark.parametrize("specifier", [">=3.10,<3.14", ">=1.22", "==2.13.0", "!=1.5,>1", "<=1.4", ">1.4.0", "<2", ""])
@pytest.mark.parametrize("version", ["1.4", "1.4.0", "1.5", "1.22", "2", "2.13", "2.13.0", "3.9.18", "3.10.2", "3.14"])
def test_versions_compare_as_pip_compares_them(specifier: str, version: str) -> None:
    assert packages.satisfies(version, specifier) == SpecifierSet(specifier).contains(version)


def test_requirements_are_those_of_the_package() -> None:
    declared = requires(packages.PACKAGE) or []
    expected = {r.name: r.specifier for r in map(Requirement, declared) if not r.marker}
    found = packages.requirements(declared)
    assert {name: SpecifierSet(specifier) for name, specifier in found.items()} == expected
    assert {"numpy", "openvino", "opencv-python-headless"} <= set(found)
    assert packages.requirements(["numpy (>=1.22,<3)", "rerun-sdk ; extra == 'rerun'"]) == {"numpy": ">=1.22,<3"}
    for text in ("numpy @ https://example.org/numpy.whl", "numpy >= 1 || 2)"):
        with pytest.raises(ValueError, match="not understood"):
            packages.requirements([text])
    with pytest.raises(ValueError, match="not understood"):
        packages.satisfies("1.0", "~=1.0")


def test_missing_and_old_packages_are_named(distribution_in_front: Callable[..., None]) -> None:
    needed = "Requires-Dist: no-such-thing>=2\nRequires-Dist: numba>=0.57\nRequires-Dist: numpy\n"
    distribution_in_front("scene_completion_ros", "9", f"Requires-Python: >=3.99\n{needed}")
    distribution_in_front("numba", "0.56.4")
    finding = packages.check_packages()
    assert finding.status is Status.FAILED
    assert finding.found == "no-such-thing is missing (>=2 is needed), numba 0.56.4 (>=0.57 is needed)"
    assert finding.cure == f"{sys.executable} -m pip install 'no-such-thing>=2' 'numba>=0.57'"
    assert packages.check_python().status is Status.FAILED


def test_a_module_without_metadata_counts(
    distribution_in_front: Callable[..., None], extra_modules: Callable[..., None]
) -> None:
    distribution_in_front("scene_completion_ros", "9", "Requires-Dist: opaque-thing>=4\n")
    extra_modules(opaque_thing="__version__ = '4.5.4'")
    assert packages.check_packages() == Finding(
        Status.OK, "opaque-thing 4.5.4", details={"opaque-thing": {"required": ">=4", "found": "4.5.4"}}
    )
    extra_modules(opaque_thing="__version__ = '3.4'")
    assert packages.check_packages().status is Status.FAILED


# ROS 2


@needs_ros
def test_a_missing_rmw_is_told_apart_from_a_missing_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_nowhere_cpp")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert ros_environment.check_ros().status is Status.OK
    finding = ros_environment.check_middleware()
    assert finding.status is Status.FAILED
    assert "rmw_nowhere_cpp" in finding.found
    assert "unset RMW_IMPLEMENTATION" in finding.cure
    assert "ros-jazzy-rmw-nowhere-cpp" in finding.cure
    assert fast_dds.check_profile().status is Status.NOT_APPLICABLE


@needs_wheels
def test_wheels_started_from_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ros_environment.WHEELS_MARK, "1")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/other/lib")
    for finding in (ros_environment.check_ros(), ros_environment.check_middleware()):
        assert finding.status is Status.FAILED
        assert "ImportError" in finding.found
        assert f"unset {ros_environment.WHEELS_MARK} LD_LIBRARY_PATH" in finding.cure


def test_a_distribution_whose_rclpy_python_does_not_find(tmp_path: Path, extra_modules: Callable[..., None]) -> None:
    extra_modules(sitecustomize=HIDE_RCLPY)
    code = (
        "from scene_completion_ros.diagnosis.ros_environment import check_ros; f = check_ros(); print(f.status, f.cure)"
    )
    environment = {**os.environ, "ROS_DISTRO": "jazzy"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Status.FAILED" in done.stdout, done.stderr
    assert ". /opt/ros/jazzy/setup.bash" in done.stdout


def sourced(prefix: Path, *names: str) -> None:
    index = prefix / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    for name in names:
        (index / name).touch()


@needs_wheels
def test_wheels_and_a_sourced_distribution_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sourced(tmp_path / "workspace", "some_robot")
    sourced(tmp_path / "distribution", "rclpy", "tf2_ros")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'workspace'}:{sys.prefix}")
    assert ros_environment.check_mixture().status is Status.OK
    assert ros_environment.check_optional("launch_ros").status is Status.NOT_APPLICABLE
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'workspace'}:{tmp_path / 'distribution'}")
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    finding = ros_environment.check_mixture()
    assert finding.status is Status.FAILED
    assert str(tmp_path / "distribution") in finding.found
    assert str(tmp_path / "workspace") not in finding.found
    assert ros_environment.check_optional("tf2_ros").status is Status.OK
    finding = ros_environment.check_optional("launch_ros")
    assert (finding.status, finding.cure) == (Status.WARNING, "sudo apt install ros-kilted-launch-ros")


@needs_ros
@pytest.mark.parametrize(
    ("domain", "reach", "status"),
    [
        ("7", "SUBNET", Status.OK),
        ("", "LOCALHOST", Status.OK),
        ("150", "SUBNET", Status.WARNING),
        ("7", "OFF", Status.WARNING),
        ("7", "localhost", Status.WARNING),
        ("233", "SUBNET", Status.FAILED),
        ("seven", "SUBNET", Status.FAILED),
    ],
)
def test_what_the_discovery_variables_mean(
    monkeypatch: pytest.MonkeyPatch, domain: str, reach: str, status: Status
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", reach)
    finding = ros_environment.check_discovery()
    assert finding.status is status
    assert ("export " in finding.cure) == (status is not Status.OK)
    if domain in ("150", "233", "seven"):  # what is called wrong is what no node can start with
        works = ros_environment.check_middleware().status is Status.OK
        assert works == (status is not Status.FAILED)


# Fast DDS


@needs_ros
@pytest.mark.parametrize(
    ("replaced", "status", "said"),
    [
        ({}, Status.OK, "33.55 MB"),
        ({"segment_size": "524288"}, Status.FAILED, "0.52 MB, a raw image of 1280x720 has 2.76 MB"),
        ({"segment_size": "2764799"}, Status.FAILED, "2.76 MB, a raw image"),
        ({"segment_size": "4000000", "useBuiltinTransports": "true"}, Status.OK, "4.00 MB"),
        ({"type": "UDPv4"}, Status.WARNING, "no shared memory"),
        ({"segment_size": "large"}, Status.FAILED, "no profile"),
        ({"profiles": ""}, Status.FAILED, "is_default_profile"),
    ],
)
def test_a_profile_is_read(profile: Callable[..., Path], replaced: dict[str, str], status: Status, said: str) -> None:
    if "profiles" in replaced:
        path = profile()
        path.write_text('<dds xmlns="http://www.eprosima.com"><profiles/></dds>', encoding="utf-8")
    else:
        profile(**replaced)
    finding = fast_dds.check_profile()
    assert finding.status is status
    assert said in finding.found
    assert (str(dds.profile_path()) in finding.cure) == (status is not Status.OK)


@needs_ros
def test_a_profile_that_is_not_there(
    profile: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile().write_text("<dds><oops", encoding="utf-8")
    assert "is no profile" in fast_dds.check_profile().found
    monkeypatch.setenv(dds.profile_variable(), str(tmp_path / "nowhere.xml"))
    finding = fast_dds.check_profile()
    assert (finding.status, finding.found[-25:]) == (Status.FAILED, "No such file or directory")
    monkeypatch.delenv(dds.profile_variable())
    finding = fast_dds.check_profile()
    assert finding.status is Status.WARNING
    assert finding.cure == f"export {dds.profile_variable()}={dds.profile_path()}"


def test_the_name_of_the_variable_is_that_of_the_installed_fast_dds(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {dds.PROFILE_VARIABLE: "/new.xml", dds.OLD_PROFILE_VARIABLE: "/old.xml"}
    monkeypatch.setattr(dds, "profile_variable", lambda: dds.PROFILE_VARIABLE)
    assert fast_dds.chosen_profile(both) == (dds.PROFILE_VARIABLE, "/new.xml")
    assert fast_dds.chosen_profile({dds.OLD_PROFILE_VARIABLE: "/old.xml"}) == (dds.OLD_PROFILE_VARIABLE, "/old.xml")
    monkeypatch.setattr(dds, "profile_variable", lambda: dds.OLD_PROFILE_VARIABLE)
    assert fast_dds.chosen_profile(both) == (dds.OLD_PROFILE_VARIABLE, "/old.xml")
    assert fast_dds.chosen_profile({dds.PROFILE_VARIABLE: "/new.xml"}) == (dds.OLD_PROFILE_VARIABLE, "")


@needs_ros
def test_a_small_segment_loses_images_and_the_shipped_one_does_not(profile: Callable[..., Path]) -> None:
    profile(segment_size="524288", maxMessageSize="524288")
    finding = fast_dds.check_messages()
    as_is, shipped = finding.details["as_is"], finding.details["shipped_profile"]
    assert as_is["connected"] and as_is["completed"]  # small messages arrive
    assert as_is["received"] < as_is["sent"] == fast_dds.IMAGES_SENT
    assert shipped["received"] > as_is["received"]
    assert finding.status in (Status.FAILED, Status.WARNING)
    assert finding.found.startswith(f"{as_is['received']} of 10 images of 2.76 MB arrived")
    assert finding.cure


@needs_ros
def test_processes_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    finding = fast_dds.check_messages()
    assert finding.status is Status.FAILED
    assert not finding.details["as_is"]["connected"]
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST" in finding.cure


# The machine


@pytest.mark.parametrize(
    ("folder", "said"), [("/dev/no_such_folder", "is missing"), ("/proc", "cannot be written"), ("/dev/shm", "free")]
)
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, folder: str, said: str) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path(folder))
    finding = machine.check_shared_memory()
    assert said in finding.found
    assert (finding.status is Status.FAILED) == (folder != "/dev/shm")


def test_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 2**60)
    finding = machine.check_shared_memory()
    assert finding.status is Status.WARNING
    assert "--shm-size" in finding.cure


@needs_compiler
@pytest.mark.parametrize(("error", "status", "said"), [(0, Status.OK, "Two, Two"), (100, Status.WARNING, "error 100")])
def test_what_the_cuda_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, status: Status, said: str
) -> None:
    """A driver library that sees two devices called "Two", or none."""
    source = tmp_path / "cuda.c"
    source.write_text(
        f"int cuInit(unsigned flags) {{ return {error}; }}\n"
        "int cuDeviceGetCount(int *count) { *count = 2; return 0; }\n"
        "int cuDeviceGetName(char *name, int size, int device) { name[0] = 'T'; name[1] = 'w'; name[2] = 'o';"
        " name[3] = 0; return 0; }\n",
        encoding="utf-8",
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(source)], check=True)
    libraries = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:{libraries}")
    finding = machine.check_gpu()
    assert finding.status is status
    assert said in finding.found
    assert ("engine auto takes it" if status is Status.OK else "the default engine runs on the CPU") in finding.found


def test_gpu_packages_that_cannot_be_imported_do_no_harm(
    distribution_in_front: Callable[..., None], extra_modules: Callable[..., None]
) -> None:
    distribution_in_front("tensorrt", "10.3.0")
    extra_modules(tensorrt="raise ImportError('libnvinfer.so.10: no such file')")
    finding = machine.check_gpu_packages()
    assert finding.status is Status.WARNING
    assert "libnvinfer.so.10" in finding.found
    assert "nothing is missing" in finding.found
    extra_modules(tensorrt="")
    finding = machine.check_gpu_packages()
    assert (finding.status, finding.details["tensorrt"]) == (Status.OK, "10.3.0")
    assert "needs pycuda, too" in finding.found


def test_another_version_of_tensorrt_is_warned_about(
    distribution_in_front: Callable[..., None], extra_modules: Callable[..., None]
) -> None:
    distribution_in_front("tensorrt", "8.6.1")
    extra_modules(tensorrt="")
    finding = machine.check_gpu_packages()
    assert finding.status is Status.WARNING
    assert "tensorrt is version 8.6.1, needed is 10.3 to 11.4" in finding.found


def test_more_programs_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    idle = machine.check_cpu()
    assert idle.status is Status.OK
    assert "NUMBA_NUM_THREADS=1" in idle.found
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert machine.check_cpu().status is Status.WARNING


def test_where_compiled_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    finding = machine.check_kernels()
    assert finding.status is Status.OK
    assert list((tmp_path / "cache").rglob("*.nbi"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    finding = machine.check_kernels()
    assert finding.status is Status.WARNING
    assert f"NUMBA_CACHE_DIR={tmp_path / 'file' / 'cache'} cannot be written" in finding.found
    assert "export NUMBA_CACHE_DIR=" in finding.cure


def test_kernels_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba may only look at a folder that cannot be made."""
    numba = pytest.importorskip("numba")
    if not hasattr(numba.config, "CACHE_LOCATOR_CLASSES"):
        pytest.skip("this numba looks for a folder everywhere, and root may write everywhere")
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    finding = machine.check_kernels()
    assert finding.status is Status.WARNING
    assert "no cache folder" in finding.found


# The student


def finding_of(name: str, bundle: Path) -> Finding:
    (check,) = (check for check in checks(bundle, DEMO_DRIVE) if check.name == name)
    return check.run()


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    finding = finding_of("bundle", tmp_path / "nowhere")
    assert (finding.status, finding.cure) == (Status.FAILED, "Name the folder of a student bundle.")
    assert finding.found == f"{tmp_path / 'nowhere'}: no student.json in it"
    assert finding_of("self-test", tmp_path / "nowhere").status is Status.NOT_APPLICABLE


def test_a_damaged_bundle(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path)
    content = bytearray((tmp_path / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "head.safetensors").write_bytes(content)
    finding = finding_of("bundle", tmp_path)
    assert finding.status is Status.FAILED
    assert "sha256" in finding.found
    assert "again" in finding.cure
    bundle.save(tmp_path, b"no graph")
    assert finding_of("bundle", tmp_path).status is Status.WARNING  # as it stands it is sound, and not calibrated
    finding = finding_of("self-test", tmp_path)
    assert finding.status is Status.FAILED
    assert "encoder.onnx" in finding.found
    assert finding.cure == "Export the bundle again."


def test_a_student_that_finds_nothing_in_the_demo_drive(tmp_path: Path) -> None:
    make_small_bundle(tmp_path, threshold=1.0)
    finding = finding_of("self-test", tmp_path)
    assert finding.status is Status.WARNING
    assert "finds nothing" in finding.found


def test_the_self_test_judges_voxels_and_not_speed(flat_road: StudentBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert flat_road.folder is not None
    for camera_hz, status in ((1e-6, Status.OK), (1e6, Status.WARNING)):
        monkeypatch.setattr(student, "CAMERA_HZ", camera_hz)
        finding = finding_of("self-test", flat_road.folder)
        assert finding.status is status
        assert finding.details["fewest_occupied"] > 1000
