"""The schema of the parameters by itself."""

import math
from typing import Any

import pytest

from scene_completion_ros.ros.parameters.schema import ParameterSpec

FRACTION = ParameterSpec("fraction", 0.5, "A fraction.", bounds=(0.0, 1.0))
COUNT = ParameterSpec("count", 3, "A count.", bounds=(0, 8))
MODE = ParameterSpec("mode", "fast", "A mode.", choices=("fast", "exact"))
FOLDER = ParameterSpec("folder", "", "A folder.", path="folder")
FILE = ParameterSpec("file", "", "A file.", path="file")
WRITTEN = ParameterSpec("written", "", "A file.", path="file to write")
BANK = ParameterSpec("bank", "", "A text bank.", path="text bank")


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        (FRACTION, 1.01, ["1.01", "0.0 to 1.0"]),
        (FRACTION, math.nan, ["nan", "finite", "0.0 to 1.0"]),
        (FRACTION, 1, ["integer", "double", "decimal point"]),
        (COUNT, True, ["True", "boolean", "integer"]),
        (COUNT, None, ["None", "integer"]),
        (MODE, "x" * 10_000, ["one of fast, exact"]),
        (BANK, "x" * 10_000, ["has 10000 characters", "shipped, an existing file, or empty"]),
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
