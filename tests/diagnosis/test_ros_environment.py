"""What the environment says about ROS 2."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.diagnosis.check import Status
from scene_completion_ros.ros import dds
from tests.diagnosis.needed import finding_of, needs_ros


@needs_ros
def test_a_missing_rmw_is_told_apart_from_a_missing_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_nowhere_cpp")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert finding_of("ROS 2").status is Status.OK
    finding = finding_of("RMW")
    assert finding.status is Status.FAILED
    assert "rmw_nowhere_cpp" in finding.found
    assert "unset RMW_IMPLEMENTATION" in finding.cure
    assert "ros-jazzy-rmw-nowhere-cpp" in finding.cure
    assert finding_of("Fast DDS profile").status is Status.NOT_APPLICABLE


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
    finding = finding_of("discovery")
    assert finding.status is status
    assert ("export " in finding.cure) == (status is not Status.OK)
    if domain in ("150", "233", "seven"):  # what is called wrong is what no node can start with
        works = finding_of("RMW").status is Status.OK
        assert works == (status is not Status.FAILED)


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
    finding = finding_of("Fast DDS profile")
    assert finding.status is status
    assert said in finding.found
    assert (str(dds.profile_path()) in finding.cure) == (status is not Status.OK)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time; time.sleep(60)", "gave no answer within 3 s"),
        ("import os; os.abort()", "its process ended by SIGABRT"),
        ("import os; print('\\x1b[31mError: late\\x1b[0m', flush=True); os._exit(3)", "status 3: Error: late"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise ValueError", "ValueError"),
    ],
)
def test_what_crashes_or_hangs_is_a_finding(extra_modules: Callable[..., None], source: str, found: str) -> None:
    extra_modules(rclpy=source)
    finding = finding_of("ROS 2", **({"limit_s": 3.0} if "sleep" in source else {}))
    assert finding.status is Status.FAILED
    assert finding.found.endswith(found)
    assert finding.cure
