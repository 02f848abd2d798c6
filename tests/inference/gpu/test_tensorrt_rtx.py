"""Encoders for GPUs, parsed and built by TensorRT-RTX, whose builder needs no GPU."""

import importlib.util
import json
import re
from typing import Any

import pytest

from tests.checkout import run_python

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install tensorrt_rtx; x86-64 only)",
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases of `rtx_builds`."""
    done = run_python("-m", "tests.inference.gpu.rtx_builds", tmp_path_factory.mktemp("rtx"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_name_of_the_runtime_is_there_and_ctrl_c_ends_a_build(answers: dict[str, Any]) -> None:
    assert answers["names"] == {"wrong": []}
    assert answers["interrupt"]["asked"] == 3


@pytest.mark.parametrize("case", ["fp16", "fp32", "shipped"])
def test_every_precision_is_parsed_and_built(answers: dict[str, Any], case: str) -> None:
    assert answers[case]["plan"] > 10_000
    assert answers[case]["steps"] > 10  # the progress is heard


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("rubbish", "cannot be parsed"),
        ("output", "'map': .*needed are .*'features': "),
        ("channels", r"'features': .*HALF.* 96, 320, 32\).* needed are .*'features': .* 96, 320, 64\)"),
        ("type", "'features': .*FLOAT.* needed are .*'features': .*HALF"),
        ("size", r"'image': .*UINT8.* 96, 320, 3\).* needed are .*'image': .* 192, 640, 3\)"),
    ],
)
def test_other_graphs_are_refused_with_what_is_needed(answers: dict[str, Any], case: str, expected: str) -> None:
    assert answers[case]["kind"] == "BundleError"
    assert re.search(expected, answers[case]["refused"])


def test_the_command_builds_once(answers: dict[str, Any]) -> None:
    (first, built), (second, found) = answers["command"]["said"]
    assert first == second == 0
    assert "was built" in built and "no device ran it" in built
    assert "is there already" in found
    (name,) = answers["command"]["files"]
    assert name.startswith("engine-fp32-")
