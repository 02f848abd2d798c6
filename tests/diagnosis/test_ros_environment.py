"""What the environment says about ROS 2."""

import pytest

from scene_completion_ros.diagnosis import ros_environment
from scene_completion_ros.diagnosis.child import Status
from tests.diagnosis.needed import needs_ros


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
    assert ros_environment.check_profile().status is Status.NOT_APPLICABLE


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
