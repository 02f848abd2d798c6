"""What ships was made by a configuration of the repository."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scene_completion_ros.inference.bundle import open_student
from scene_completion_training import CONFIGS
from scene_completion_training.configuration import read_configuration
from scene_completion_training.stages.completion import CompletionConfiguration, CompletionStage
from scene_completion_training.stages.pixels import TrainedPixels


def differing(record: dict[str, Any], expected: dict[str, Any], within: str = "") -> Iterator[str]:
    """Names of values of a record that a configuration has otherwise; where things lie, each machine chooses."""
    for name, value in record.items():
        if name in {"root", "segmentation"}:
            continue
        wanted = expected.get(name)
        if isinstance(value, dict) and isinstance(wanted, dict):
            yield from differing(value, wanted, f"{within}{name}.")
        elif name in expected and value != wanted:
            yield f"{within}{name}"


def test_a_shipped_student_is_what_its_configuration_makes() -> None:
    record = open_student("street").provenance
    settings = read_configuration(CONFIGS / "street.yaml", [], CompletionConfiguration).parts()["student"]
    expected = json.loads(json.dumps(asdict(settings)))
    assert list(differing(record["configuration"], expected)) == []
    assert record["configuration"]["steps"] == settings.steps and record["configuration"]["pixels"]["steps"] > 0
    assert record["training"]["commit"]


def test_a_training_goes_on_from_the_street_that_ships() -> None:
    """By its name, with its pixels and its decoder."""
    settings = read_configuration(CONFIGS / "street.yaml", ["start_from=street"], CompletionConfiguration)
    assert TrainedPixels.read(Path("street"), settings, "start_from").frozen_blocks == settings.pixels.frozen_blocks
    CompletionStage.refuse_start(settings)
