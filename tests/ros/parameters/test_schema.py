"""The schema of the parameters by itself."""

import math
from dataclasses import astuple
from typing import Any

import pytest

from scene_completion_ros.ros.parameters.schema import SCHEMA, NodeParameters, ParameterSpec

FRACTION = ParameterSpec("fraction", 0.5, "A fraction.", bounds=(0.0, 1.0))
COUNT = ParameterSpec("count", 3, "A count.", bounds=(0, 8))
MODE = ParameterSpec("mode", "fast", "A mode.", choices=("fast", "exact"))
SWITCH = ParameterSpec("switch", False, "A switch.")
FOLDER = ParameterSpec("folder", "", "A folder.", path="folder")
FILE = ParameterSpec("file", "", "A file.", path="file")
WRITTEN = ParameterSpec("written", "", "A file.", path="file to write")
BANK = ParameterSpec("bank", "", "A text bank.", path="text bank")


def test_every_parameter_is_described_once_and_its_default_is_allowed() -> None:
    assert [spec.default for spec in SCHEMA] == list(astuple(NodeParameters()))
    for spec in SCHEMA:
        assert spec.meaning.endswith("."), spec.name
        assert "|" not in spec.meaning, spec.name  # it stands in a table
        assert spec.problem(spec.default) is None, spec.name


def test_what_cannot_change_under_a_running_model_and_its_readers_is_read_only() -> None:
    assert {spec.name for spec in SCHEMA if not spec.live} == {
        "bundle", "engine", "grid.file", "image.transport", "image.qos",
        "autostart", "cameras", "grid.frame", "transform.source", "transform.topics", "odometry.topics",
        "extrinsics_file", "odometry.frame",
        "gpu_precision", "fusion.map_file",
        "occupancy_threshold", "output_qos", "depth.from", "depth.topic",
    }  # fmt: skip
    assert all(spec.problem("gps") for spec in SCHEMA if spec.name in ("scale.from", "depth.from"))


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        (FRACTION, 1.01, ["1.01", "0.0 to 1.0"]),
        (FRACTION, math.nan, ["nan", "finite", "0.0 to 1.0"]),
        (FRACTION, 1, ["integer", "double", "decimal point"]),
        (COUNT, -1, ["-1", "0 to 8"]),
        (COUNT, True, ["True", "boolean", "integer"]),
        (COUNT, "two", ["'two'", "string", "integer", "0 to 8"]),
        (COUNT, None, ["None", "integer"]),
        (MODE, "slow", ["'slow'", "one of fast, exact"]),
        (MODE, "", ["one of fast, exact"]),
        (MODE, "x" * 10_000, ["one of fast, exact"]),
        (BANK, "x" * 10_000, ["has 10000 characters", "shipped, an existing file, or empty"]),
        (SWITCH, 1, ["integer", "boolean", "true or false"]),
        (FOLDER, "/nowhere/at/all", ["/nowhere/at/all", "an existing folder, or empty"]),
        (FILE, "/", ["no file /", "an existing file, or empty"]),
        (WRITTEN, "/nowhere/at/all.map", ["no folder /nowhere/at", "a file in an existing folder, or empty"]),
        (FOLDER, "nul\0byte", ["no folder"]),
        (BANK, "/", ["no file /", "shipped, an existing file, or empty"]),
    ],
)
def test_refused_values_say_what_is_wrong_and_what_is_right(spec: ParameterSpec, value: Any, words: list[str]) -> None:
    problem = spec.problem(value)
    assert all(word in problem for word in words), problem
    assert len(problem) < 250
