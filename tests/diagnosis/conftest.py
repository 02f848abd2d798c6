"""Environments that are sound, and ones that are broken in one way each."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.ros import dds
from tests.ros_domain import next_domain


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
