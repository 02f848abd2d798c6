"""Profiles of Fast DDS."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.diagnosis import ros_environment
from scene_completion_ros.diagnosis.child import Status
from scene_completion_ros.ros import dds
from tests.diagnosis.needed import needs_ros


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
    finding = ros_environment.check_profile()
    assert finding.status is status
    assert said in finding.found
    assert (str(dds.profile_path()) in finding.cure) == (status is not Status.OK)
