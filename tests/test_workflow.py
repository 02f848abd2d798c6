"""The workflow of GitHub, what continuous integration runs, and the Dockerfiles: what they name is there.

Neither a runner of GitHub nor Docker is at hand where these tests run.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checkout import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*[!e]"))
DISTRIBUTIONS = ("humble", "jazzy", "kilted")


def bash(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *options, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)


def test_every_distribution_is_sourced_and_runs_what_continuous_integration_runs() -> None:
    workflow: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    jobs, job = workflow["jobs"], workflow["jobs"]["distributions"]
    assert tuple(job["strategy"]["matrix"]["distribution"]) == DISTRIBUTIONS
    assert job["container"] == "ros:${{ matrix.distribution }}-ros-base"
    for command in (".ci/run", ".ci/workspace"):
        (step,) = (step["run"] for step in job["steps"] if command in step.get("run", ""))
        assert step.startswith("source /opt/ros/${{ matrix.distribution }}/setup.bash\n")
    assert any(step.get("run") == ".ci/run" for step in jobs["wheels"]["steps"])


@pytest.mark.parametrize("name", ["run", "workspace"])
def test_what_continuous_integration_runs_can_be_run(name: str) -> None:
    script = ROOT / ".ci" / name
    assert os.access(script, os.X_OK)
    assert bash(script.read_text(encoding="utf-8"), "-n").returncode == 0


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfile_copies_what_is_there_and_runs_what_is_installed(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    assert dockerfile.with_name(f"{dockerfile.name}.dockerignore").is_file()
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    for command in re.findall(r"^RUN (.+)$", text, re.MULTILINE):
        assert bash(command, "-n").returncode == 0, command
    (started,) = re.findall(r"^CMD \[(.+)\]$", text, re.MULTILINE)
    program = started.split(", ")[0].strip('"')
    assert f'"{program} = scene_completion_ros.' in (ROOT / "setup.py").read_text(encoding="utf-8")
    extras = re.findall(r"\*\.whl\)\[([\w,]+)\]", text)
    declared = set(re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE))
    assert {extra for group in extras for extra in group.split(",")} <= declared


def test_dockerfile_of_the_cpu_has_the_python_of_the_pins() -> None:
    (version,) = re.findall(r"^ARG BASE=python:(3\.\d+)-", (ROOT / "docker/Dockerfile.cpu").read_text(), re.MULTILINE)
    assert version in (ROOT / "constraints" / "pins.txt").read_text(encoding="utf-8").splitlines()[0]
