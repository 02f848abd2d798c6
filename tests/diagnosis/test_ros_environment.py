"""What the environment says about ROS 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.diagnosis import fast_dds, ros_environment
from scene_completion_ros.diagnosis.findings import Status
from tests.checkout import run_python
from tests.diagnosis.needed import HIDE_RCLPY, needs_ros, needs_wheels


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


def test_a_distribution_whose_rclpy_python_does_not_find(extra_modules: Callable[..., None]) -> None:
    extra_modules(sitecustomize=HIDE_RCLPY)
    code = (
        "from scene_completion_ros.diagnosis.ros_environment import check_ros; f = check_ros(); print(f.status, f.cure)"
    )
    done = run_python("-c", code, ROS_DISTRO="jazzy")
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
