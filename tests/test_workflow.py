"""What continuous integration runs, and the Dockerfiles, as far as they can be checked without Docker."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.checkout import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*[!e]"))


def bash(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *options, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("name", ["run", "workspace"])
def test_what_continuous_integration_runs_can_be_run(name: str) -> None:
    script = ROOT / ".ci" / name
    assert os.access(script, os.X_OK)
    assert bash(script.read_text(encoding="utf-8"), "-n").returncode == 0


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfile_copies_what_is_there_and_runs_what_is_installed(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    for command in re.findall(r"^RUN (.+)$", text, re.MULTILINE):
        assert bash(command, "-n").returncode == 0, command
    (started,) = re.findall(r"^CMD \[(.+)\]$", text, re.MULTILINE)
    program = started.split(", ")[0].strip('"')
    assert f'"{program} = scene_completion_ros.' in (ROOT / "setup.py").read_text(encoding="utf-8")
