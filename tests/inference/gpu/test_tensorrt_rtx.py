"""Encoders for GPUs, parsed and built by TensorRT-RTX, whose builder needs no GPU."""

from __future__ import annotations

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


def test_every_name_that_is_used_is_there(answers: dict[str, Any]) -> None:
    assert answers["names"] == {"wrong": []}


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp32", "shipped", "spatial_fp16", "spatial_fp32"])
def test_every_precision_is_parsed_and_built(answers: dict[str, Any], precision: str) -> None:
    answer = answers[precision]
    assert answer["plan"] > 10_000
    assert answer["steps"] > 10  # the progress callback was heard
    assert answer["timings"] == 0


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("rubbish", "cannot parse it"),
        ("output", "output is map HALF .* where features HALF"),
        ("channels", r"output is features HALF \[N, 96, 320, 32\] where features HALF \[N, 96, 320, 64\]"),
        ("type", "output is features FLOAT .* where features HALF"),
        ("volume", r"volume HALF \[N, 4, 4, 4\], depth FLOAT \[N, 96, 320\] where features HALF .* is needed"),
        ("size", r"input is image UINT8 \[N, 96, 320, 3\] where image UINT8 \[N, 192, 640, 3\]"),
    ],
)
def test_other_graphs_are_refused_with_what_is_needed(answers: dict[str, Any], case: str, said: str) -> None:
    assert answers[case]["kind"] == "BundleError"
    assert re.search(said, answers[case]["refused"])


def test_a_build_that_is_given_up_ends(answers: dict[str, Any]) -> None:
    assert "given up" in answers["unwanted"]["refused"]


def test_ctrl_c_ends_a_build(answers: dict[str, Any]) -> None:
    answer = answers["interrupt"]
    assert answer["interrupted"]
    assert answer["asked"] == 3


def test_the_command_builds_once(answers: dict[str, Any]) -> None:
    answer = answers["command"]
    first, second = answer["said"]
    assert (first["code"], second["code"]) == (0, 0)
    assert "was built" in first["out"] and "there is no device" in first["out"]
    assert "is there already" in second["out"]
    (key,) = answer["keys"]
    assert key["precision"] == "fp32"
    assert key["batch"] == [1, 2]
    assert key["gpu_name"] == ""
    assert key["flavour"] == "tensorrt_rtx"
