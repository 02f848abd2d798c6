"""The doctor as a whole, in environments that are sound, and in ones that are broken in one way each."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from scene_completion_ros.diagnosis.check import Status
from scene_completion_ros.diagnosis.checks import checks
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.ros import dds
from tests.checkout import run_python
from tests.diagnosis.needed import HIDE_RCLPY, needs_ros

NAMES = [check.name for check in checks(None)]
OF_ROS = [
    "ROS 2 not mixed",
    "RMW",
    "discovery",
    "tf2_ros",
    "cv_bridge",
    "launch_ros",
    "image_transport",
    "Fast DDS profile",
]


def doctor(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "scene_completion_ros.cli", "doctor", *words, cwd=cwd, **variables)


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
    sound = ("Python", "packages", "ROS 2", "RMW", "Fast DDS profile")
    assert {name: found[name]["status"] for name in sound} == dict.fromkeys(sound, "ok")
    for check in report["checks"]:
        assert set(check) == {"name", "status", "found", "cure", "details"}
        assert check["found"]
        assert bool(check["cure"]) == (check["status"] in ("warning", "failed")), check
    statuses = [check["status"] for check in report["checks"]]
    assert report["counts"] == {status.value: statuses.count(status.value) for status in Status}
    assert found["bundle"]["details"]["classes"] == list(StudentBundle.load(DEFAULT_BUNDLE).class_names)
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
    assert done.stdout.splitlines()[-1] == (
        "next: scene-completion complete IMAGE --camera FILE --output out works without ROS 2"
    )


@needs_ros
def test_whatever_is_broken_every_check_says_something(tmp_path: Path, extra_modules: Callable[..., None]) -> None:
    extra_modules(numpy="raise ImportError('no good')", rclpy="import os; os.abort()")
    variables = {dds.profile_variable(): str(tmp_path / "nowhere.xml"), "PYTHONIOENCODING": "ascii"}
    done = doctor("--bundle", "missing…", cwd=tmp_path, **variables)
    found = printed(done.stdout)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert list(found) == NAMES
    assert "Traceback" not in done.stdout
    failed = {"ROS 2", "RMW", "Fast DDS profile", "numba", "bundle", "self-test"}
    assert {name for name, (status, _) in found.items() if status == "failed"} == failed
    assert all("\n" in found[name][1] for name in failed)  # with a cure
    assert done.stdout.splitlines()[-1] == "next: cure what failed, from the top; it begins with ROS 2"
    assert "SIGABRT" in found["ROS 2"][1]
    assert "ImportError: no good" in found["numba"][1]
